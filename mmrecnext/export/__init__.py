"""What leaves PyTorch: files that run without this library, proven equal.

A *subject* is a network that takes pictures as a pipeline loads them, with what its
results have to equal (``subjects``; the heads that are known stand in ``heads``). A
*format* is a way to write it (``formats``). :func:`export` writes the one in the other,
and runs the file beside the network (``proof``).
"""

from mmrecnext.export.formats import FORMATS
from mmrecnext.export.heads import HEADS
from mmrecnext.export.read import network_subject, published_backbone
from mmrecnext.export.subjects import Subject, backbone_subject, classifier_subject
from mmrecnext.export.write import Report, export
from mmrecnext.ops.masks import paste_masks

__all__ = [
    'FORMATS',
    'HEADS',
    'Report',
    'Subject',
    'backbone_subject',
    'classifier_subject',
    'export',
    'network_subject',
    'paste_masks',
    'published_backbone',
]
