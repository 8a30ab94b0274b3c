"""A probe of a training step: FLOPs, forward and backward passes through the networks.

FLOPs are those of matrix products and convolutions, by torch's own formulas
(`torch.utils.flop_counter`); a multiplication with its addition counts two. Nothing is changed by
it: operators run as they do without, and hooks only look.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry
from torch.utils.hooks import RemovableHandle

from perdure.backbones.base import Backbone
from perdure.distributed.process_group import Ranks


@dataclass
class StepCost:
    """What one step took.

    Attributes:
        flops: of matrix products and convolutions.
        forward_passes: through a network, a teacher's too.
        forward_examples: how many examples went through them, all together.
        backward_passes: likewise back through a network.
        backward_examples: likewise.
    """

    flops: int = 0
    forward_passes: int = 0
    forward_examples: int = 0
    backward_passes: int = 0
    backward_examples: int = 0


class Probe(TorchDispatchMode):
    """Counts what is computed inside.

    What is computed on parts of a batch (`part`) is kept apart from what every process computes
    alike, such as the projection of a gradient.

    Args:
        method: its networks are those whose passes are counted: of each one, the most that one of
            its layers with weights was called.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # Else torch imports its compiler here, .8 s, to keep a mode out of it that it never sees.
        return False

    def __init__(self, method: nn.Module) -> None:
        super().__init__()
        self._networks = [
            [
                layer
                for layer in network.modules()
                if not any(True for _ in layer.children()) and any(True for _ in layer.parameters())
            ]
            for network in method.modules()
            if isinstance(network, Backbone)
        ]
        self._in_part = False
        self._flops = {True: 0, False: 0}
        self._counts = {
            (in_part, field.name): Counter[nn.Module]()
            for in_part in (True, False)
            for field in fields(StepCost)[1:]
        }
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> Probe:
        for layer in {layer for layers in self._networks for layer in layers}:
            self._handles.append(layer.register_forward_hook(self._on_forward))
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        for handle in self._handles:
            handle.remove()

    @contextmanager
    def part(self) -> Iterator[None]:
        """What is computed inside is of a part of the batch."""
        self._in_part = True
        try:
            yield
        finally:
            self._in_part = False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self._flops[self._in_part] += formula(*args, **kwargs, out_val=out)
        return out

    def _on_forward(self, layer: nn.Module, args: tuple[Any, ...], out: Any) -> None:
        n = args[0].shape[0] if args and isinstance(args[0], Tensor) and args[0].dim() else 0
        self._add("forward", layer, n)
        if isinstance(out, Tensor) and out.requires_grad:
            with suppress(RuntimeError):  # a tensor of torch.func takes no hook
                out.register_hook(lambda gradient: self._add("backward", layer, n))

    def _add(self, way: str, layer: nn.Module, n: int) -> None:
        self._counts[self._in_part, f"{way}_passes"][layer] += 1
        self._counts[self._in_part, f"{way}_examples"][layer] += n

    def cost(self, ranks: Ranks, shards: int, device: torch.device) -> StepCost:
        """What was counted on all processes together; all must call it.

        Passes through one of the `shards` parts of a batch are as much of a pass.
        """
        mine = torch.tensor(self._numbers(True), dtype=torch.int64, device=device)
        parts, common = ranks.sum_counts(mine).tolist(), self._numbers(False)
        for place, field in enumerate(fields(StepCost)):
            if field.name.endswith("passes"):
                parts[place] = -(-parts[place] // shards)
        return StepCost(*(a + b for a, b in zip(parts, common, strict=True)))

    def _numbers(self, in_part: bool) -> list[int]:
        """In the order of `StepCost`."""
        passes = [
            sum(
                max((self._counts[in_part, field.name][layer] for layer in layers), default=0)
                for layers in self._networks
            )
            for field in fields(StepCost)[1:]
        ]
        return [self._flops[in_part], *passes]
