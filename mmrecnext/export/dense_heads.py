"""Heads that tell boxes, scores or masks in a way of their own."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mmrecnext.export.boxes import from_distances, take
from mmrecnext.export.dense import DenseHead, detections, rows
from mmrecnext.export.regions import counted, spread


class IntegralHead(DenseHead):
    """What a ``GFLHead`` finds: distances are means of their distributions."""

    def boxes(
        self, level: int, regression: Tensor, places: Tensor, priors: Tensor
    ) -> Tensor:
        """Return boxes ``[N, P, 4]`` at places ``[N, P]`` of a level."""
        head = self.head
        values = take(rows(regression, 4 * (head.reg_max + 1)), places)
        shares = values.unflatten(2, (4, -1)).softmax(-1)
        distances = (shares * head.integral.project).sum(-1)
        stride = head.prior_generator.strides[level][0]
        return from_distances(head.anchor_center(priors[places]), distances * stride)


class YOLOXHead(DenseHead):
    """What a ``YOLOXHead`` finds: of each place its best class alone."""

    counts = ()

    def candidates(self, outputs: Any, size: Any) -> tuple[Tensor, ...]:
        """Return boxes, scores, classes, and whether they count, at all places."""
        logits, values, objects = (
            torch.cat([rows(x, width) for x in maps], 1)
            for maps, width in zip(
                outputs, (self.head.cls_out_channels, 4, 1), strict=True
            )
        )
        priors = torch.cat(self.priors(outputs[0], with_stride=True))
        points, strides = priors[:, :2], priors[:, 2:]
        centre = values[..., :2] * strides + points
        half = values[..., 2:].exp() * strides / 2
        best, classes = logits.max(-1)
        scores = best.sigmoid() * objects[..., 0].sigmoid()
        boxes = torch.cat([centre - half, centre + half], -1)
        return boxes, scores, classes, scores >= self.cfg.score_thr


class InstanceHead(DenseHead):
    """What a ``RTMDetInsHead`` finds: each place has a small network for its mask."""

    masks = True

    def forward(self, maps: Any, size: Any) -> tuple[Tensor, ...]:
        """Return detections, and their masks, bool ``[N, K, H, W]``."""
        logits, regression, networks, features = self.head(maps)
        boxes, scores, labels, valid, places = self.candidates(
            (logits, regression), size
        )
        dets, labels, index = detections(boxes, scores, labels, valid, self.cfg)
        places = places.gather(1, index)
        networks = torch.cat([rows(x, self.head.num_gen_params) for x in networks], 1)
        priors = torch.cat(self.priors(logits))
        valid = labels >= 0
        index = counted(valid)
        picture = torch.arange(valid.shape[0], device=valid.device)
        chosen = (
            picture[:, None].expand_as(valid),
            take(networks, places),
            priors[places],
        )
        # What stands for the one that is always looked at is that of the first place.
        picture, networks, priors = (
            torch.cat([x.flatten(0, 1), x.flatten(0, 1)[:1]])[index] for x in chosen
        )
        values = self.mask_logits(features[picture], networks, priors)
        stride = self.head.prior_generator.strides[0][0]
        sides = [side * stride for side in values.shape[1:]]
        values = F.interpolate(values[None], sides, mode='bilinear')[0]
        height, width = size
        found = values[:, :height, :width].sigmoid() > self.cfg.mask_thr_binary
        return dets, labels, spread(found, index, valid) & valid[..., None, None]

    def priors(self, maps: Any, **options: Any) -> list[Tensor]:
        """Return points and strides, ``[H * W, 4]`` of each level."""
        return super().priors(maps, with_stride=True, **options)

    def mask_logits(self, features: Tensor, networks: Tensor, priors: Tensor) -> Tensor:
        """Run the network of each detection.

        Args:
            features: ``[R, C, h, w]``.
            networks: ``[R, G]``, their weights and biases.
            priors: ``[R, 4]``, points and strides that they are at.

        Returns:
            ``[R, h, w]``.
        """
        head = self.head
        sides = features.shape[2:]
        grid = head.prior_generator.single_level_grid_priors(
            sides, level_idx=0, device=features.device
        )
        offsets = (priors[:, None, :2] - grid) / (priors[:, None, 2:3] * 8)
        x = torch.cat([offsets.transpose(1, 2), features.flatten(2)], 1)
        parts = networks.split([*head.weight_nums, *head.bias_nums], 1)
        layers = len(head.weight_nums)
        for i in range(layers):
            weight = parts[i].unflatten(1, (head.bias_nums[i], -1))
            x = weight @ x + parts[layers + i][..., None]
            if i < layers - 1:
                x = x.relu()
        return x[:, 0].unflatten(1, sides)
