"""Import this to have all models as shallow as they can be: a block in each stage.

For processes in which commands of the docs run: what they do to a model takes as long
as it is deep, and shows nothing more.
"""

from dataclasses import replace

from mmrecnext.archs import ARCHS, Arch


def shallow(arch: Arch) -> Arch:
    """Return a model of one block per stage, or as many as share their attention."""
    depths = [min(depth, 1) for depth in arch.depths]
    depths[-1] = max(depths[-1], arch.share_every)
    return replace(arch, depths=tuple(depths))


ARCHS.update({name: shallow(arch) for name, arch in ARCHS.items()})
