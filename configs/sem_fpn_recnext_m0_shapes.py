# Semantic FPN on the shapes of tools/make_shapes_data.py, for a CPU: trained by
# tools/dist_train.sh in two processes, as the Mask R-CNN beside it.
_base_ = './sem_fpn_recnext_m3_ade20k.py'

data_root = 'data/shapes'
classes = ('background', 'circle', 'square', 'triangle', 'star', 'cross')
palette = [
    [48, 48, 48],
    [230, 97, 76],
    [66, 135, 245],
    [250, 190, 66],
    [112, 193, 115],
    [170, 105, 210],
]
scale = (160, 160)
norm_cfg = dict(type='BN')
width = 64

model = dict(
    data_preprocessor=dict(size=scale),
    backbone=dict(arch='m0', norm_cfg=norm_cfg, init_cfg=None),
    neck=dict(in_channels=[40, 80, 160, 320], out_channels=width, norm_cfg=norm_cfg),
    decode_head=dict(
        in_channels=[width] * 4,
        channels=width,
        num_classes=len(classes),
        norm_cfg=norm_cfg,
    ),
)

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', reduce_zero_label=True),
    dict(type='Resize', scale=scale),
    dict(type='RandomFlip', prob=[0.25, 0.25], direction=['horizontal', 'vertical']),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=scale),
    dict(type='LoadAnnotations', reduce_zero_label=True),
    dict(type='PackSegInputs'),
]
shapes = dict(
    type='BaseSegDataset',
    data_root=data_root,
    metainfo=dict(classes=classes, palette=palette),
    reduce_zero_label=True,
)
train_dataloader = dict(
    batch_size=4,  # in each of two processes
    num_workers=0,
    persistent_workers=False,
    dataset=dict(**shapes, pipeline=train_pipeline),
)
val_dataloader = dict(
    batch_size=4,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(**shapes, pipeline=test_pipeline),
)
test_dataloader = val_dataloader

max_iters = 800
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
optim_wrapper = dict(optimizer=dict(lr=2.5e-3))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(
        type='PolyLR', power=0.9, eta_min=1e-6, begin=50, end=max_iters, by_epoch=False
    ),
]
default_hooks = dict(logger=dict(interval=20), checkpoint=dict(interval=max_iters))
auto_scale_lr = dict(base_batch_size=8)  # of both processes
# Each process has batch norms of its own; one network is evaluated and saved.
custom_hooks = [dict(type='SyncBuffersHook')]
