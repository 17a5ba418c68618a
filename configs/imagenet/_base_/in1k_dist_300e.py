# The same with a teacher, whose classes a second head learns.
_base_ = './in1k_300e.py'

model = dict(teacher=dict(model='regnety_160.deit_in1k', kind='hard', weight=0.5))
