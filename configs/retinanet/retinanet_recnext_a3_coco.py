_base_ = './retinanet_recnext_m3_coco.py'

model = dict(
    backbone=dict(arch='a3', init_cfg=dict(checkpoint='recnext_a3.dist_300e_in1k')),
)
