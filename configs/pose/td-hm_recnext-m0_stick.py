# A pose estimator with a light head on the figures of tools/make_stick_figures_data.py,
# for a CPU: tools/dist_train.sh configs/pose/td-hm_recnext-m0_stick.py 2 trains in two
# processes, from random weights.
#
# A short training from nothing finds joints in fine maps sooner than in the coarsest
# one: the head sees the maps of all stages, at the size of the first.
_base_ = './td-hm_recnext-m3_coco-256x192.py'

data_root = 'data/stick/'
codec = dict(
    type='MSRAHeatmap',
    input_size=(96, 128),
    heatmap_size=(24, 32),
    sigma=1.5,
    unbiased=True,  # joints are between the pixels of so small a map
    blur_kernel_size=7,
)
model = dict(
    backbone=dict(arch='m0', out_indices=(0, 1, 2, 3), init_cfg=None),
    neck=dict(type='FeatureMapProcessor', select_index=(0, 1, 2, 3), concat=True),
    head=dict(
        in_channels=40 + 80 + 160 + 320,
        deconv_out_channels=None,
        conv_out_channels=(96, 64),
        conv_kernel_sizes=(1, 3),
        decoder=codec,
    ),
    test_cfg=dict(flip_test=False),
)

train_pipeline = [
    dict(type='LoadImage'),
    dict(type='GetBBoxCenterScale', padding=1.1),
    dict(type='RandomFlip', direction='horizontal'),
    dict(type='RandomBBoxTransform', scale_factor=(0.9, 1.5), rotate_prob=0.0),
    dict(type='TopdownAffine', input_size=codec['input_size']),
    dict(type='GenerateTarget', encoder=codec),
    dict(type='PackPoseInputs'),
]
val_pipeline = [
    dict(type='LoadImage'),
    dict(type='GetBBoxCenterScale', padding=1.1),
    dict(type='TopdownAffine', input_size=codec['input_size']),
    dict(type='PackPoseInputs'),
]
few_workers = dict(num_workers=0, persistent_workers=False)
train_dataloader = dict(
    batch_size=8,  # in each of two processes
    **few_workers,
    dataset=dict(data_root=data_root, pipeline=train_pipeline),
)
val_dataloader = dict(
    batch_size=16,
    **few_workers,
    dataset=dict(data_root=data_root, pipeline=val_pipeline, bbox_file=''),
)
test_dataloader = val_dataloader
val_evaluator = [
    dict(
        type='CocoMetric',
        ann_file=data_root + 'annotations/person_keypoints_val2017.json',
    ),
    dict(type='PCKAccuracy', thr=0.05),
    dict(type='EPE'),
]
test_evaluator = val_evaluator

max_epochs = 4
train_cfg = dict(max_epochs=max_epochs, val_interval=max_epochs)
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='AdamW', lr=2e-3, weight_decay=0.05),
    clip_grad=dict(max_norm=1.0),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(
        type='CosineAnnealingLR',
        T_max=max_epochs,
        end=max_epochs,
        eta_min=1e-5,
        convert_to_iter_based=True,
    ),
]
default_hooks = dict(
    logger=dict(interval=50),
    checkpoint=dict(interval=max_epochs, save_best=None, rule=None),
)
auto_scale_lr = dict(base_batch_size=16)  # of both processes
randomness = dict(seed=0)
