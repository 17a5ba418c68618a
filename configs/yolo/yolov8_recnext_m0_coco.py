_base_ = './yolov8_recnext_m3_coco.py'

channels = [80, 160, 320]
model = dict(
    backbone=dict(arch='m0', init_cfg=dict(checkpoint='recnext_m0.dist_300e_in1k')),
    neck=dict(in_channels=channels, out_channels=channels, widen_factor=1.0),
    bbox_head=dict(head_module=dict(in_channels=channels, widen_factor=1.0)),
)
