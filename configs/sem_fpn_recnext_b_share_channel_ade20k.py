_base_ = './sem_fpn_recnext_b_ade20k.py'

model = dict(
    backbone=dict(
        arch='b_share_channel',
        init_cfg=dict(checkpoint='recnext_b_share_channel.dist_300e_in1k'),
    ),
)
