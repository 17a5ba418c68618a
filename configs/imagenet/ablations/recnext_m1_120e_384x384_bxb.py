# One convolution of 11 x 11, with a bias before its norm.
_base_ = './_base_/in1k_120e_384.py'

model = dict(arch=dict(base='m1', mixer=dict(level=0, kernel_size=11, bias=True)))
