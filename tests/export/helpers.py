"""A network that is exported at once, and weights with results to compare."""

from copy import deepcopy
from pathlib import Path

import torch
from mmdet.structures import DetDataSample
from torch import nn

from mmrecnext.engine.build import build_network, fit_cpu
from mmrecnext.engine.configs import load_config
from tests.helpers import randomise


class Brightness(nn.Module):
    """A backbone that takes no time to export, nor to run."""

    def forward(self, x):
        """Return one map ``[N, 1, H, W]``."""
        return (x.mean(1, keepdim=True),)


DENSE = {
    'RetinaHead': dict(retina_cls=-4, retina_reg=0),
    'FCOSHead': dict(conv_cls=-3, conv_reg=2.5, conv_centerness=0),
    'ATSSHead': dict(atss_cls=-3, atss_reg=0, atss_centerness=0),
    'GFLHead': dict(gfl_cls=-4, gfl_reg=0),
    'SSDHead': dict(cls_convs=0, reg_convs=0),
    'YOLOXHead': dict(
        multi_level_conv_cls=-3, multi_level_conv_reg=0.5, multi_level_conv_obj=0
    ),
    'RTMDetHead': dict(rtm_cls=-1, rtm_reg=0.5, rtm_obj=0),
    'RTMDetSepBNHead': dict(rtm_cls=-2, rtm_reg=0.5),
    'RTMDetInsHead': dict(rtm_cls=-1, rtm_reg=2, rtm_obj=0, rtm_kernel=0),
    'RTMDetInsSepBNHead': dict(rtm_cls=-2, rtm_reg=2, rtm_kernel=0),
}
"""Of each type of head the layers that predict, by what their names begin with, and the
mean of what they return where some detections are found and many are not."""

SIZE = (160, 192)
"""Of the pictures that tell: in smaller ones all pixels of coarse maps see the edge."""

REGIONS = dict(rpn_cls=0.5, rpn_reg=0.3, fc_cls=2, fc_reg=0.5, conv_logits=2)
"""The same of detectors that look for regions first: the standard deviation."""


def find_something(detector):
    """Give a detector of random weights detections whose scores are far apart."""
    if kind := getattr(detector, 'bbox_head', None):
        for name, mean in DENSE[type(kind).__name__].items():
            spread = 0.3 if '_reg' in name else 2
            settle(detector, f'bbox_head.{name}', mean, spread)
        return
    for name, spread in REGIONS.items():
        settle(detector, name, 0, spread)
    for name, layer in detector.named_modules():
        if name.endswith('fc_cls'):
            layer.bias.data[-1] += 4  # the background


def settle(model, name, mean, spread):
    """Give what layers return a mean and a standard deviation.

    They are the convolutions and linear layers whose name has another name in it.
    """
    seed = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (2, 3, *SIZE), generator=seed)
    meta = dict(img_shape=SIZE, ori_shape=SIZE, scale_factor=(1.0, 1.0))
    seen = []
    for each, layer in model.named_modules():
        if name not in each or not isinstance(layer, nn.Conv2d | nn.Linear):
            continue
        nn.init.normal_(layer.weight)
        seen.clear()
        hook = layer.register_forward_hook(lambda *x: seen.append(x[2].flatten()))
        with torch.no_grad():
            samples = [DetDataSample(metainfo=meta) for _ in images]
            model.test_step(dict(inputs=[*images], data_samples=samples))
        hook.remove()
        values = torch.cat(seen)
        layer.weight.data *= spread / values.std()
        layer.bias.data.fill_(float(mean - spread * values.mean() / values.std()))


class Strides(nn.Module):
    """A backbone that takes little time to export, of strides 8 and 16.

    Blank pictures are zero to it, as the objects in them are to a trained one.
    """

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 8, stride=8, bias=False)
        self.conv.weight.data -= self.conv.weight.mean((1, 2, 3), keepdim=True)

    def forward(self, x):
        """Return maps ``[N, 8, H / 8, W / 8]`` and ``[N, 8, H / 16, W / 16]``."""
        x = self.conv(x)
        return x, x[..., ::2, ::2]


def random_weights(config, file) -> str:
    """Save weights of a config with which not all is alike that is predicted."""
    cfg = load_config(config) if isinstance(config, str | Path) else deepcopy(config)
    fit_cpu(cfg)
    torch.manual_seed(0)
    model = randomise(build_network(cfg.model, cfg.default_scope))
    if hasattr(model, 'decode_head'):
        nn.init.normal_(model.decode_head.conv_seg.weight)
    else:
        find_something(model)
    torch.save({'state_dict': model.state_dict(), 'meta': {}}, file)
    return str(file)
