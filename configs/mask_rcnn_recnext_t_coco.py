# T, S and B begin at stride 8. One learned upsampling adds the level of stride 4, so
# that the pyramid has the strides of the anchors and RoIs, 4 to 64, with no level
# pooled. Images are padded to a multiple of 64, the coarsest stride, so that the maps
# nest.
_base_ = './mask_rcnn_recnext_m3_coco.py'

model = dict(
    data_preprocessor=dict(pad_size_divisor=64),
    backbone=dict(arch='t', init_cfg=dict(checkpoint='recnext_t.dist_300e_in1k')),
    neck=dict(type='mmrecnext.FPNWithStride4'),
)
