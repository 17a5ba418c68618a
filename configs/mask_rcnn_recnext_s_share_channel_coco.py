_base_ = './mask_rcnn_recnext_s_coco.py'

model = dict(
    backbone=dict(
        arch='s_share_channel',
        init_cfg=dict(checkpoint='recnext_s_share_channel.dist_300e_in1k'),
    ),
)
