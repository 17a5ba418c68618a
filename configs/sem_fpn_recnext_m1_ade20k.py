_base_ = './sem_fpn_recnext_m3_ade20k.py'

model = dict(
    backbone=dict(arch='m1', init_cfg=dict(checkpoint='recnext_m1.dist_300e_in1k')),
    neck=dict(in_channels=[48, 96, 192, 384]),
)
