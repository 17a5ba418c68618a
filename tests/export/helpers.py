"""A network that is exported at once, and weights with results to compare."""

import torch
from torch import nn

from mmrecnext.engine.build import build_network, fit_cpu
from mmrecnext.engine.configs import load_config
from tests.helpers import randomise


class Brightness(nn.Module):
    """A backbone that takes no time to export, nor to run."""

    def forward(self, x):
        """Return one map ``[N, 1, H, W]``."""
        return (x.mean(1, keepdim=True),)


def random_weights(config, file) -> str:
    """Save weights of a config, such that no class wins everywhere."""
    cfg = load_config(str(config))
    fit_cpu(cfg)
    torch.manual_seed(0)
    model = randomise(build_network(cfg.model, cfg.default_scope))
    if hasattr(model, 'decode_head'):
        nn.init.normal_(model.decode_head.conv_seg.weight)
    torch.save({'state_dict': model.state_dict(), 'meta': {}}, file)
    return str(file)
