# The same at 384 x 384; in validation the short side is 438 before the crop.
_base_ = './in1k_120e_224.py'

size = 384

train_dataloader = dict(dataset=dict(transform=dict(input_size=size)))
val_dataloader = dict(dataset=dict(transform=dict(input_size=size)))
test_dataloader = val_dataloader
