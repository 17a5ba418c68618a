"""Checkpoints: found, read without running code, fitted entirely, and converted."""

from mmrecnext.checkpoint.files import read_file
from mmrecnext.checkpoint.fit import explained_misfit, load_network, load_pretrained
from mmrecnext.checkpoint.initializer import RecNeXtPretrainedInit
from mmrecnext.checkpoint.sources import OWN_READER, read_checkpoint, register_loaders
from mmrecnext.checkpoint.weights import backbone_weights, named_weights

__all__ = [
    'OWN_READER',
    'RecNeXtPretrainedInit',
    'backbone_weights',
    'explained_misfit',
    'load_network',
    'load_pretrained',
    'named_weights',
    'read_checkpoint',
    'read_file',
    'register_loaders',
]
