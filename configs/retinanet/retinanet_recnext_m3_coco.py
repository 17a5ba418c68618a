# RetinaNet 1x on COCO, 8 GPUs x 2 images, with AdamW as MMDetection sets it for PVT in
# the same place. Nothing is published of RecNeXt under RetinaNet.
_base_ = [
    'mmdet::_base_/models/retinanet_r50_fpn.py',
    'mmdet::_base_/datasets/coco_detection.py',
    'mmdet::_base_/schedules/schedule_1x.py',
    'mmdet::_base_/default_runtime.py',
]

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmrecnext.RecNeXt',
        arch='m3',
        norm_cfg=dict(type='SyncBN'),
        init_cfg=dict(type='Pretrained', checkpoint='recnext_m3.dist_300e_in1k'),
    ),
    neck=dict(in_channels=[64, 128, 256, 512]),
)

optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='AdamW', lr=1e-4, weight_decay=1e-4),
)
auto_scale_lr = dict(base_batch_size=16)
randomness = dict(seed=0)
