_base_ = './sem_fpn_recnext_m3_ade20k.py'

model = dict(
    backbone=dict(arch='a2', init_cfg=dict(checkpoint='recnext_a2.dist_300e_in1k')),
    neck=dict(in_channels=[56, 112, 224, 448]),
)
