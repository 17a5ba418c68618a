_base_ = './sem_fpn_recnext_s_ade20k_40k.py'

model = dict(
    backbone=dict(
        arch='s_share_channel',
        init_cfg=dict(checkpoint='recnext_s_share_channel.dist_300e_in1k'),
    ),
)
