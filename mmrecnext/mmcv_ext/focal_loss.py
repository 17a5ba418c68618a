"""Focal losses in place of mmcv's compiled operators.

Both write into tensors that the caller provides. ``weight`` is (C,), or empty for
none; a sample is weighted by the entry of its target, and by 1 if the target is no
class.

Source: Lin et al., Focal Loss for Dense Object Detection,
https://arxiv.org/abs/1708.02002
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from mmrecnext.mmcv_ext.precision import at_least_float32


def sigmoid_focal_loss_forward(
    input: Tensor,
    target: Tensor,
    weight: Tensor,
    output: Tensor,
    gamma: float,
    alpha: float,
) -> None:
    """Write -a (1 - p)^gamma log p of every sample and class into ``output``.

    p is the probability given to the truth: sigmoid(x) with a = alpha for the target
    class, 1 - sigmoid(x) with a = 1 - alpha for every other one.

    Args:
        input: (N, C) logits.
        target: (N,) int64 classes; any other number is background.
        weight: (C,) or (0,).
        output: (N, C), written.
        gamma: Focusing exponent.
        alpha: Share of the target class.
    """
    logits, weight = at_least_float32(input, weight)
    logits, scale, _ = _signed(logits, target, weight, alpha)
    log_p = F.logsigmoid(logits)
    output.copy_(-scale * torch.sigmoid(-logits).pow(gamma) * log_p)


def sigmoid_focal_loss_backward(
    input: Tensor,
    target: Tensor,
    weight: Tensor,
    grad_input: Tensor,
    gamma: float,
    alpha: float,
) -> None:
    """Write the derivative of each loss by its logit into ``grad_input`` (N, C).

    All other arguments are those of :func:`sigmoid_focal_loss_forward`.
    """
    logits, weight = at_least_float32(input, weight)
    logits, scale, sign = _signed(logits, target, weight, alpha)
    log_p, q = F.logsigmoid(logits), torch.sigmoid(-logits)
    slope = q.pow(gamma) * (gamma * (1 - q) * log_p - q)
    grad_input.copy_(sign * scale * slope)


def softmax_focal_loss_forward(
    input: Tensor,
    target: Tensor,
    weight: Tensor,
    output: Tensor,
    gamma: float,
    alpha: float,
) -> None:
    """Write -alpha (1 - p)^gamma log p of every sample, p that of its target.

    Args:
        input: (N, C) probabilities: mmcv takes the softmax beforehand.
        target: (N,) int64 classes; a sample with any other number has no loss.
        weight: (C,) or (0,).
        output: (N,), written.
        gamma: Focusing exponent.
        alpha: Factor of the loss.
    """
    probability, weight = at_least_float32(input, weight)
    p, scale, _ = _of_target(probability, target, weight, alpha)
    output.copy_(-scale * (1 - p).pow(gamma) * p.log())


def softmax_focal_loss_backward(
    input: Tensor,
    target: Tensor,
    weight: Tensor,
    buff: Tensor,
    grad_input: Tensor,
    gamma: float,
    alpha: float,
) -> None:
    """Write the derivative of each loss by the logits into ``grad_input`` (N, C).

    ``buff`` (N,) is written with the factor that all classes share; all other
    arguments are those of :func:`softmax_focal_loss_forward`.
    """
    probability, weight = at_least_float32(input, weight)
    p, scale, label = _of_target(probability, target, weight, alpha)
    # at p = 1 the power may be infinite where its factor log p is 0
    q = (1 - p).clamp(min=torch.finfo(torch.float32).tiny)
    slope = scale * (gamma * q.pow(gamma - 1) * p * p.log() - q.pow(gamma))
    hit = torch.arange(probability.size(1), device=label.device) == label[:, None]
    buff.copy_(slope)
    grad_input.copy_(slope[:, None] * (hit.to(probability) - probability))


def _signed(
    logits: Tensor, target: Tensor, weight: Tensor, alpha: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits of the truth, factor of their loss, and d(logit of the truth)/d(logit)."""
    hit = torch.arange(logits.size(1), device=logits.device) == target[:, None]
    sign = 2 * hit.to(logits) - 1
    scale = torch.full_like(logits, 1 - alpha).masked_fill_(hit, alpha)
    if weight.numel():
        scale = scale * _weight_of(target, weight)[:, None]
    return sign * logits, scale, sign


def _of_target(
    probability: Tensor, target: Tensor, weight: Tensor, alpha: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Probability of each target, factor of its loss (0 if no class), and a label."""
    classes = probability.size(1)
    label = target.clamp(0, classes - 1)
    p = probability.gather(1, label[:, None])[:, 0]
    scale = alpha * (target == label).to(p)
    if weight.numel():
        scale = scale * _weight_of(target, weight)
    # mmcv's bound: the logarithm stays finite
    return p.clamp(min=torch.finfo(torch.float32).tiny), scale, label


def _weight_of(target: Tensor, weight: Tensor) -> Tensor:
    label = target.clamp(0, len(weight) - 1)
    return torch.where(target == label, weight[label], 1)
