# RTMPose by MMPose's recipe of its size m, whose backbone has twice the parameters.
_base_ = 'mmpose::body_2d_keypoint/rtmpose/coco/rtmpose-m_8xb256-420e_coco-256x192.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmrecnext.RecNeXt',
        arch='m3',
        out_indices=(3,),
        norm_cfg=dict(type='SyncBN'),
        init_cfg=dict(type='Pretrained', checkpoint='recnext_m3.dist_300e_in1k'),
    ),
    head=dict(in_channels=512),
)
