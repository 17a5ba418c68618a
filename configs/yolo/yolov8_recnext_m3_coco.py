# YOLOv8 on COCO by MMYOLO's recipe for its size s, whose neck is as wide as the maps of
# M3, with AdamW: 8 GPUs x 16 images. Nothing is published of RecNeXt under YOLOv8.
_base_ = 'mmyolo::yolov8/yolov8_s_syncbn_fast_8xb16-500e_coco.py'

model = dict(
    data_preprocessor=dict(
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
    ),
    backbone=dict(
        _delete_=True,
        type='mmrecnext.RecNeXt',
        arch='m3',
        out_indices=(1, 2, 3),
        norm_cfg=dict(type='SyncBN'),
        init_cfg=dict(type='Pretrained', checkpoint='recnext_m3.dist_300e_in1k'),
    ),
)

optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='AdamW', lr=1e-3, weight_decay=0.05),
    constructor='DefaultOptimWrapperConstructor',
)
auto_scale_lr = dict(base_batch_size=128)
randomness = dict(seed=0)
