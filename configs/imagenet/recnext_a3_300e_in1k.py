_base_ = './_base_/in1k_300e.py'

model = dict(arch='a3', drop_path_rate=0.0)
