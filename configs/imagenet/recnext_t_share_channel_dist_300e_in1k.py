_base_ = './_base_/in1k_dist_300e.py'

model = dict(arch='t_share_channel', drop_path_rate=0.0)
