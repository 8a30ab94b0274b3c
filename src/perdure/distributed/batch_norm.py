"""Synchronized batch norm: statistics of the global batch, summed in the order of the shards."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from perdure.distributed.process_group import Ranks
from perdure.distributed.reduction import in_order


class GlobalBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Replaces a batch norm layer and keeps its parameters, buffers and names.

    Each rank must hold one shard and run the layer equally often.

    Args:
        layer: the layer to replace.
        ranks: the ranks whose examples the statistics are taken over.
    """

    def __init__(self, layer: nn.modules.batchnorm._BatchNorm, ranks: Ranks) -> None:
        super().__init__(
            layer.num_features,
            layer.eps,
            layer.momentum,
            layer.affine,
            layer.track_running_stats,
        )
        self._parameters = layer._parameters
        self._buffers = layer._buffers
        self.training = layer.training
        self.ranks = ranks

    def _check_input_dim(self, input: Tensor) -> None:
        """Any number of dimensions, channels second."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        normal, mean, variance, n = _Normalize.apply(x, self.eps, self.ranks)
        self._track(mean, variance, n)
        if self.affine:
            shape = (1, -1, *(1 for _ in x.shape[2:]))
            normal = normal * self.weight.view(shape) + self.bias.view(shape)
        out: Tensor = normal.to(x.dtype)
        return out

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor, n: Tensor) -> None:
        if self.running_mean is None or self.running_var is None:
            return
        if self.num_batches_tracked is not None:
            self.num_batches_tracked += 1
        factor: Any = self.momentum
        if factor is None:  # the mean over all batches
            factor = 1 / self.num_batches_tracked  # type: ignore[operator]
        unbiased = variance * n / (n - 1).clamp(min=1)
        self.running_mean.copy_(self.running_mean * (1 - factor) + mean * factor)
        self.running_var.copy_(self.running_var * (1 - factor) + unbiased * factor)


def synchronize(network: nn.Module, ranks: Ranks) -> None:
    """Replace every batch norm of `network` by one over the global batch."""
    for name, child in network.named_children():
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            setattr(network, name, GlobalBatchNorm(child, ranks))
        else:
            synchronize(child, ranks)


class _Normalize(torch.autograd.Function):
    """(x − mean) / √(variance + ε) a channel, over the examples of all ranks."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float, ranks: Ranks) -> tuple[Tensor, ...]:
        over = [0, *range(2, x.ndim)]
        values = x.float()
        count = torch.full((1,), x.numel() / x.shape[1], device=x.device)
        sums = in_order(ranks.gather(torch.cat([values.sum(over), count])[None]))
        n = sums[-1]
        mean = sums[:-1] / n
        centered = values - _along(mean, x)
        variance = in_order(ranks.gather(centered.square().sum(over)[None])) / n
        inverse = (variance + eps).rsqrt()
        normal = centered * _along(inverse, x)
        ctx.save_for_backward(normal, inverse, n)
        ctx.ranks = ranks
        ctx.mark_non_differentiable(mean, variance, n)
        return normal, mean, variance, n

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        gradient = gradients[0].float()
        normal, inverse, n = ctx.saved_tensors
        over = [0, *range(2, normal.ndim)]
        local = torch.cat([gradient.sum(over), (gradient * normal).sum(over)])
        a, b = (in_order(ctx.ranks.gather(local[None])) / n).chunk(2)
        inner = gradient - _along(a, normal) - normal * _along(b, normal)
        return inner * _along(inverse, normal), None, None


def _along(values: Tensor, like: Tensor) -> Tensor:
    """[C] in the shape that broadcasts over `like`, [B, C, …]."""
    return values.view(1, -1, *(1 for _ in like.shape[2:]))
