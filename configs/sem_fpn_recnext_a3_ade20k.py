_base_ = './sem_fpn_recnext_m3_ade20k.py'

model = dict(
    backbone=dict(arch='a3', init_cfg=dict(checkpoint='recnext_a3.dist_300e_in1k')),
)
