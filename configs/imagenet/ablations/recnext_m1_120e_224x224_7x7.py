# One convolution of 7 x 7, with a bias before its norm.
_base_ = './_base_/in1k_120e_224.py'

model = dict(arch=dict(base='m1', mixer=dict(level=0, kernel_size=7, bias=True)))
