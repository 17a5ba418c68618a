# Kernels of 7 x 7; maps are enlarged by the nearest pixel.
_base_ = './_base_/in1k_120e_224.py'

model = dict(arch=dict(base='m1', mixer=dict(kernel_size=7, mode='nearest')))
