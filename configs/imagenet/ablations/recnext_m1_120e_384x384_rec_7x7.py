# RecNeXt-M1 with kernels of 7 x 7.
_base_ = './_base_/in1k_120e_384.py'

model = dict(arch=dict(base='m1', mixer=dict(kernel_size=7)))
