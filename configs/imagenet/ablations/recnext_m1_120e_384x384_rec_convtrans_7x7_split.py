# Kernels of 7 x 7; half of the channels go on to the next level.
_base_ = './_base_/in1k_120e_384.py'

model = dict(arch=dict(base='m1', mixer=dict(type='RecConvConcat', kernel_size=7)))
