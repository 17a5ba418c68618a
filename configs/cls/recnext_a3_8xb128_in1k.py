_base_ = './recnext_m3_8xb128_in1k.py'

weights = dict(checkpoint='recnext_a3.dist_300e_in1k')
model = dict(backbone=dict(arch='a3', init_cfg=weights))
