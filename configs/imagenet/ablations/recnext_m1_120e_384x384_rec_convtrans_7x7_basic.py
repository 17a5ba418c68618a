# Kernels of 7 x 7; maps are enlarged by one transposed convolution of 8 x 8.
_base_ = './_base_/in1k_120e_384.py'

model = dict(arch=dict(base='m1', mixer=dict(kernel_size=7, mode='transposed')))
