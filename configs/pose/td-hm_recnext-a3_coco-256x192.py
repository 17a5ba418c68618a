_base_ = './td-hm_recnext-m3_coco-256x192.py'

weights = dict(checkpoint='recnext_a3.dist_300e_in1k')
model = dict(backbone=dict(arch='a3', init_cfg=weights))
