# T, S and B begin at stride 8: their maps are the levels 8 to 64, and one extra level
# has stride 128. Images are padded to a multiple of 64, so that the backbone's maps
# nest.
_base_ = './retinanet_recnext_m3_coco.py'

model = dict(
    data_preprocessor=dict(pad_size_divisor=64),
    backbone=dict(arch='t', init_cfg=dict(checkpoint='recnext_t.dist_300e_in1k')),
    neck=dict(start_level=0),
)
