# RecNeXt-M1 with kernels of 3 x 3.
_base_ = './_base_/in1k_120e_224.py'

model = dict(arch=dict(base='m1', mixer=dict(kernel_size=3)))
