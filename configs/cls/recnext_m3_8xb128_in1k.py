# A classifier by MMPretrain's recipe for light networks: 8 GPUs x 128 pictures of 224 x
# 224, AdamW, random augmentation and erasing. It starts from the published weights;
# init_cfg=None starts from nothing.
_base_ = [
    'mmpretrain::_base_/models/resnet50.py',
    'mmpretrain::_base_/datasets/imagenet_bs128_poolformer_small_224.py',
    'mmpretrain::_base_/schedules/imagenet_bs1024_adamw_swin.py',
    'mmpretrain::_base_/default_runtime.py',
]

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmrecnext.RecNeXt',
        arch='m3',
        out_indices=(3,),
        init_cfg=dict(type='Pretrained', checkpoint='recnext_m3.dist_300e_in1k'),
    ),
    head=dict(in_channels=512),
)
