# Kernels of 7 x 7 between pooling and its reverse. No code of it is published: the last
# row and column of a map of 7 x 7, which all stages come to, are pooled alone here.
_base_ = './_base_/in1k_120e_224.py'

model = dict(arch=dict(base='m1', mixer=dict(kernel_size=7, mode='unpool')))
