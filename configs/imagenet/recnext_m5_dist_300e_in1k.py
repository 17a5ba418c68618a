_base_ = './_base_/in1k_dist_300e.py'

model = dict(arch='m5', drop_path_rate=0.0)
