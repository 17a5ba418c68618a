_base_ = './sem_fpn_recnext_t_ade20k_40k.py'

model = dict(
    backbone=dict(arch='s', init_cfg=dict(checkpoint='recnext_s.dist_300e_in1k')),
    neck=dict(in_channels=[128, 256, 384, 512]),
)
