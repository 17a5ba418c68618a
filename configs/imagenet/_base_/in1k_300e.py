# ImageNet-1k in 300 epochs, as the published classifiers were trained: 8 processes x
# 128 pictures, AdamW, augmentation by timm. Models differ in their own configs.
custom_imports = dict(imports=['mmrecnext.classification.training'])
default_scope = 'mmengine'
runner_type = 'ClassifierRunner'

data_root = 'data/imagenet/'
size = 224
max_epochs = 300

model = dict(
    type='mmrecnext.ImageClassifier',
    num_classes=None,  # as many as there are folders
    mixup=dict(
        mixup_alpha=0.8,
        cutmix_alpha=1.0,
        prob=1.0,
        switch_prob=0.5,
        mode='batch',
        label_smoothing=0.1,
    ),
)

loader = dict(
    num_workers=8,
    persistent_workers=True,
    collate_fn=dict(type='default_collate'),
)
train_dataloader = dict(
    **loader,
    batch_size=128,
    drop_last=True,
    sampler=dict(type='RepeatedAugmentation', num_repeats=3),
    dataset=dict(
        type='PicturesByClass',
        data_root=data_root,
        split='train',
        transform=dict(
            is_training=True,
            input_size=size,
            scale=(0.08, 1.0),
            ratio=(3 / 4, 4 / 3),
            interpolation='bicubic',
            hflip=0.5,
            auto_augment='rand-m9-mstd0.5-inc1',
            re_prob=0.25,
            re_mode='pixel',
            re_count=1,
        ),
    ),
)
val_dataloader = dict(
    **loader,
    batch_size=192,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='PicturesByClass',
        data_root=data_root,
        split='val',
        transform=dict(input_size=size, interpolation='bicubic', crop_pct=224 / 256),
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='TopK')
test_evaluator = val_evaluator

train_cfg = dict(by_epoch=True, max_epochs=max_epochs, val_interval=1)
val_cfg = dict()
test_cfg = dict()
optim_wrapper = dict(
    type='OptimWrapper',
    constructor='mmrecnext.TimmOptimWrapperConstructor',
    optimizer=dict(type='AdamW', lr=2e-3, weight_decay=0.025),
    clip_grad=dict(type='adaptive', clip_factor=0.02, eps=1e-3),
)
param_scheduler = dict(
    type='WarmupCosineLR', epochs=max_epochs, warmup=5, warmup_lr=1e-6, min_lr=1e-5
)
auto_scale_lr = dict(base_batch_size=1024)

default_hooks = dict(
    logger=dict(type='LoggerHook', interval=50),
    checkpoint=dict(
        type='CheckpointHook',
        interval=1,
        max_keep_ckpts=3,
        save_best='top1',
        rule='greater',
    ),
)
custom_hooks = [
    dict(type='AveragedWeightsHook', decay=0.99996),
    # Each process has batch norms of its own; one network is evaluated and saved.
    dict(type='SyncBuffersHook'),
]
env_cfg = dict(
    cudnn_benchmark=True,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    dist_cfg=dict(backend='nccl'),
)
randomness = dict(seed=0)
