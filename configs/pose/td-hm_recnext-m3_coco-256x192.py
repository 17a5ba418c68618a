# A pose estimator with a heatmap head, by MMPose's recipe of its ResNet-50.
_base_ = (
    'mmpose::body_2d_keypoint/topdown_heatmap/coco/'
    'td-hm_res50_8xb64-210e_coco-256x192.py'
)
weights = dict(type='Pretrained', checkpoint='recnext_m3.dist_300e_in1k')
backbone = dict(type='mmrecnext.RecNeXt', arch='m3', out_indices=(3,), init_cfg=weights)

model = dict(backbone=dict(_delete_=True, **backbone), head=dict(in_channels=512))
