_base_ = './sem_fpn_recnext_m3_ade20k_40k.py'

model = dict(
    backbone=dict(arch='a4', init_cfg=dict(checkpoint='recnext_a4.dist_300e_in1k')),
)
