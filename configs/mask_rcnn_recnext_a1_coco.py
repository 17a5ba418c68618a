_base_ = './mask_rcnn_recnext_m3_coco.py'

model = dict(
    backbone=dict(arch='a1', init_cfg=dict(checkpoint='recnext_a1.dist_300e_in1k')),
    neck=dict(in_channels=[48, 96, 192, 384]),
)
