_base_ = './retinanet_recnext_t_coco.py'

model = dict(
    backbone=dict(
        arch='t_share_channel',
        init_cfg=dict(checkpoint='recnext_t_share_channel.dist_300e_in1k'),
    ),
)
