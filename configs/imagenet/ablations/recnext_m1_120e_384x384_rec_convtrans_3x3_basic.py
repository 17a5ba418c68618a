# Kernels of 3 x 3; maps are enlarged by one transposed convolution of 4 x 4.
_base_ = './_base_/in1k_120e_384.py'

model = dict(arch=dict(base='m1', mixer=dict(kernel_size=3, mode='transposed')))
