# Mask R-CNN with light heads on the shapes of tools/make_shapes_data.py, for a CPU:
# tools/dist_train.sh configs/mask_rcnn_recnext_m0_shapes.py 2 trains in two processes,
# whose many small operations a second core does sooner than a second thread.
#
# A short training from nothing learns what shape it sees from boxes that sit well, and
# hardly from those that hold half of it: the RPN weighs its boxes more, and a region is
# of an object from an IoU of 0.75 on.
_base_ = './mask_rcnn_recnext_m3_coco.py'

data_root = 'data/shapes/'
classes = ('circle', 'square', 'triangle', 'star', 'cross')
palette = [
    (230, 97, 76),
    (66, 135, 245),
    (250, 190, 66),
    (112, 193, 115),
    (170, 105, 210),
]
scale = (160, 160)
width = 64
norm_cfg = dict(type='BN')  # in neck and mask head too: training starts from nothing

model = dict(
    backbone=dict(arch='m0', norm_cfg=norm_cfg, init_cfg=None),
    neck=dict(
        in_channels=[40, 80, 160, 320],
        out_channels=width,
        num_outs=4,
        norm_cfg=norm_cfg,
    ),
    rpn_head=dict(
        in_channels=width,
        feat_channels=width,
        anchor_generator=dict(scales=[6], strides=[4, 8, 16, 32]),
        loss_bbox=dict(loss_weight=8.0),
    ),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=width, roi_layer=dict(sampling_ratio=1)),
        bbox_head=dict(in_channels=width, fc_out_channels=256, num_classes=5),
        mask_roi_extractor=dict(out_channels=width, roi_layer=dict(sampling_ratio=1)),
        mask_head=dict(
            num_convs=2,
            in_channels=width,
            conv_out_channels=width // 2,
            num_classes=5,
            norm_cfg=norm_cfg,
        ),
    ),
    train_cfg=dict(
        rpn=dict(sampler=dict(num=128)),
        rpn_proposal=dict(nms_pre=200, max_per_img=100),
        rcnn=dict(
            assigner=dict(pos_iou_thr=0.75, min_pos_iou=0.75),
            sampler=dict(num=64, pos_fraction=0.5),
        ),
    ),
    test_cfg=dict(rpn=dict(nms_pre=200, max_per_img=100), rcnn=dict(max_per_img=20)),
)

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='Resize', scale=scale, keep_ratio=True),
    dict(type='RandomFlip', prob=0.5, direction=['horizontal', 'vertical']),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=scale, keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
    ),
]
shapes = dict(data_root=data_root, metainfo=dict(classes=classes, palette=palette))
train_dataloader = dict(
    batch_size=4,  # in each of two processes
    num_workers=0,
    persistent_workers=False,
    dataset=dict(
        **shapes, pipeline=train_pipeline, filter_cfg=dict(filter_empty_gt=True)
    ),
)
val_dataloader = dict(
    batch_size=4,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(**shapes, pipeline=test_pipeline),
)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + 'annotations/instances_val2017.json')
test_evaluator = val_evaluator

max_epochs = 5
train_cfg = dict(max_epochs=max_epochs, val_interval=max_epochs)
optim_wrapper = dict(
    optimizer=dict(lr=2.5e-3, fused=True), clip_grad=dict(max_norm=10.0, norm_type=2)
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
default_hooks = dict(logger=dict(interval=20), checkpoint=dict(interval=max_epochs))
auto_scale_lr = dict(base_batch_size=8)  # of both processes
# Each process has batch norms of its own; one network is evaluated and saved.
custom_hooks = [dict(type='SyncBuffersHook')]
visualizer = dict(line_width=1.5, alpha=0.5)
