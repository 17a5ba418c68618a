_base_ = './td-hm_recnext-m3_coco-256x192.py'

weights = dict(checkpoint='recnext_m0.dist_300e_in1k')
model = dict(backbone=dict(arch='m0', init_cfg=weights), head=dict(in_channels=320))
