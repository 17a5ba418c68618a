_base_ = './sem_fpn_recnext_m3_ade20k.py'

model = dict(
    backbone=dict(arch='a5', init_cfg=dict(checkpoint='recnext_a5.dist_300e_in1k')),
    neck=dict(in_channels=[80, 160, 320, 640]),
)
