_base_ = './mask_rcnn_recnext_m3_coco.py'

model = dict(
    backbone=dict(arch='m2', init_cfg=dict(checkpoint='recnext_m2.dist_300e_in1k')),
    neck=dict(in_channels=[56, 112, 224, 448]),
)
