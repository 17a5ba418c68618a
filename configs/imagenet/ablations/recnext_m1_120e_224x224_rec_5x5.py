# RecNeXt-M1 itself.
_base_ = './_base_/in1k_120e_224.py'

model = dict(arch='m1')
