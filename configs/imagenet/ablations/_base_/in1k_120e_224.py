# The ablations were trained for 120 epochs, without a teacher.
_base_ = '../../_base_/in1k_300e.py'

max_epochs = 120

model = dict(drop_path_rate=0.0)
train_cfg = dict(max_epochs=max_epochs)
param_scheduler = dict(epochs=max_epochs)
