# With drop path, which the published training did without: there AP peaks at epoch 9 of
# 12 and falls after. Nothing is published of this variant.
_base_ = '../mask_rcnn_recnext_a5_coco.py'

model = dict(backbone=dict(drop_path_rate=0.2))
