# T, S and B begin at stride 8. The head brings all maps to the finest stride, 8 here,
# and its result is enlarged 8 times. Test images are padded to a multiple of 64, the
# coarsest stride, which the crops of training are too, so that the maps nest.
_base_ = './sem_fpn_recnext_m3_ade20k.py'

model = dict(
    data_preprocessor=dict(test_cfg=dict(size_divisor=64)),
    backbone=dict(arch='t', init_cfg=dict(checkpoint='recnext_t.dist_300e_in1k')),
    decode_head=dict(feature_strides=[8, 16, 32, 64]),
)
