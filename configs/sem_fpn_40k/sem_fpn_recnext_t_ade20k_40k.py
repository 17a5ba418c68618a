# Strides as in ../sem_fpn_recnext_t_ade20k.py.
_base_ = './sem_fpn_recnext_m3_ade20k_40k.py'

model = dict(
    data_preprocessor=dict(test_cfg=dict(size_divisor=64)),
    backbone=dict(arch='t', init_cfg=dict(checkpoint='recnext_t.dist_300e_in1k')),
    decode_head=dict(feature_strides=[8, 16, 32, 64]),
)
