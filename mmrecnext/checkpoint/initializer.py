"""Pretrained weights as MMEngine initialises with them, but all of them or none."""

from __future__ import annotations

from mmengine.model.weight_init import PretrainedInit, update_init_info

from mmrecnext.checkpoint.fit import load_pretrained
from mmrecnext.models import Backbone
from mmrecnext.registry import WEIGHT_INITIALIZERS


@WEIGHT_INITIALIZERS.register_module(name='Pretrained')
class RecNeXtPretrainedInit(PretrainedInit):
    """Initialises a backbone with weights of its own, see :func:`load_pretrained`.

    The options are those of MMEngine's ``PretrainedInit``.
    """

    def __call__(self, module: Backbone) -> None:
        """Load the weights.

        Raises:
            CheckpointError: where they are not those of this model.
        """
        load_pretrained(module, self.checkpoint, self.prefix, self.map_location)
        if hasattr(module, '_params_init_info'):
            update_init_info(module, init_info=self._get_init_info())
