# Semantic FPN on ADE20K by the schedule that peers report: 40,000 iterations of batch
# 32, learning rate 2e-4. All else is as in the published recipe of 80,000; nothing is
# published of RecNeXt by this one.
_base_ = '../sem_fpn_recnext_m3_ade20k.py'

optim_wrapper = dict(optimizer=dict(lr=2e-4))
param_scheduler = [
    dict(type='PolyLR', power=0.9, eta_min=1e-6, begin=0, end=40000, by_epoch=False),
]
train_cfg = dict(max_iters=40000, val_interval=4000)
default_hooks = dict(checkpoint=dict(interval=4000))
