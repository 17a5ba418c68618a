# Of all models, this one alone was trained with batches of 2,048.
_base_ = './_base_/in1k_300e.py'

model = dict(arch='m0', drop_path_rate=0.0)
train_dataloader = dict(batch_size=256)
optim_wrapper = dict(optimizer=dict(lr=4e-3))
auto_scale_lr = dict(base_batch_size=2048)
