# Kernels of 7 x 7, shared by all levels, which are added up as a sequence.
_base_ = './_base_/in1k_120e_224.py'

model = dict(
    arch=dict(
        base='m1', mixer=dict(type='RecConvRecurrent', kernel_size=7, mode='nearest')
    )
)
