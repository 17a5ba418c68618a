_base_ = '../sem_fpn_recnext_m0_shapes.py'

model = dict(
    backbone=dict(_delete_=True, type='mmrecnext.MLLA', arch='nano_recattn'),
    neck=dict(in_channels=[32, 64, 128, 256]),
)
