_base_ = './mask_rcnn_recnext_m3_coco.py'

model = dict(
    backbone=dict(arch='a4', init_cfg=dict(checkpoint='recnext_a4.dist_300e_in1k')),
)
