# A published classifier, fine-tuned on pictures of your own in a folder per class, on a
# GPU or a CPU: train.py recnext_m3_finetune.py --data-root FOLDER. Another model takes
# --cfg-options model.arch=a0 model.pretrained=recnext_a0.dist_300e_in1k.
_base_ = './_base_/in1k_300e.py'

max_epochs = 20

model = dict(
    arch='m3',
    pretrained='recnext_m3.dist_300e_in1k',
    mixup=dict(prob=0.0),  # labels are smoothed still
)
few_workers = dict(batch_size=32, num_workers=2)
train_dataloader = dict(
    **few_workers,
    sampler=dict(_delete_=True, type='DefaultSampler', shuffle=True),
    dataset=dict(transform=dict(scale=(0.35, 1.0), re_prob=0.0)),
)
val_dataloader = few_workers
test_dataloader = few_workers
train_cfg = dict(max_epochs=max_epochs)
optim_wrapper = dict(optimizer=dict(lr=5e-4))
param_scheduler = dict(epochs=max_epochs, warmup=2)
auto_scale_lr = dict(base_batch_size=32)
default_hooks = dict(logger=dict(interval=10), checkpoint=dict(max_keep_ckpts=1))
custom_hooks = [
    dict(type='AveragedWeightsHook', decay=0.99),
    dict(type='SyncBuffersHook'),
    dict(type='MistakesHook'),
]
