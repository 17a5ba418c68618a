# Kernels of 7 x 7; group convolutions halve the channels where they halve the map.
_base_ = './_base_/in1k_120e_384.py'

model = dict(arch=dict(base='m1', mixer=dict(type='RecConvGroups', kernel_size=7)))
