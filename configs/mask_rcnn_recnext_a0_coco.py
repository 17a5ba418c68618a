_base_ = './mask_rcnn_recnext_m3_coco.py'

model = dict(
    backbone=dict(arch='a0', init_cfg=dict(checkpoint='recnext_a0.dist_300e_in1k')),
    neck=dict(in_channels=[40, 80, 160, 320]),
)
