_base_ = './fcos3d_recnext_m3_nuscenes.py'

model = dict(
    backbone=dict(arch='m0', init_cfg=dict(checkpoint='recnext_m0.dist_300e_in1k')),
    neck=dict(in_channels=[40, 80, 160, 320]),
)
