_base_ = './retinanet_recnext_t_coco.py'

model = dict(
    backbone=dict(arch='b', init_cfg=dict(checkpoint='recnext_b.dist_300e_in1k')),
    neck=dict(in_channels=[128, 256, 384, 512]),
)
