# FCOS3D on nuScenes by MMDetection3D's recipe, with AdamW: 8 GPUs x 2 images, the boxes
# of what six cameras see in 3D. Nothing is published of RecNeXt under FCOS3D.
_base_ = 'mmdet3d::fcos3d/fcos3d_r101-caffe-dcn_fpn_head-gn_8xb2-1x_nus-mono3d.py'

model = dict(
    data_preprocessor=dict(
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
    ),
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
    optimizer=dict(_delete_=True, type='AdamW', lr=2e-4, weight_decay=0.05),
    paramwise_cfg=dict(_delete_=True),
)
auto_scale_lr = dict(base_batch_size=16)
randomness = dict(seed=0)
