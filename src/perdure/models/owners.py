"""The task that each weight of a network belongs to (weight masks, pruning): PackNet's division."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call

from perdure.backbones.base import Backbone
from perdure.backbones.heads import Linear
from perdure.errors import UserError

FREE = torch.iinfo(torch.int16).max


class Owners(nn.Module):
    """Divides the weights of the layers before the head, and the rows of the head, among tasks.

    Args:
        backbone: the network; it is not a part of this module.

    Attributes:
        owner: number of the task that a weight belongs to or `FREE`, int16 [P], over the weights
            of all layers one after another.
        shared: all else before the head, as biases and batch norm.

    Raises:
        UserError: the head is not linear, or there is no layer before it.
    """

    owner: Tensor
    own_rows: Tensor

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        head = backbone.head
        if not isinstance(head, nn.Linear | Linear):
            raise UserError("head: the rows of a task's classes are its own; must be head=linear")
        self._networks: tuple[Backbone, nn.Linear | Linear] = (
            backbone,
            head,
        )  # a tuple, which registers no module
        layers = [m for m in backbone.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
        kinds = {id(layer.weight) for layer in layers}
        of_head = {id(p) for p in head.parameters()}
        body = {name: p for name, p in backbone.named_parameters() if id(p) not in of_head}
        self._weights = {name: p for name, p in body.items() if id(p) in kinds}
        self.shared = [p for p in body.values() if id(p) not in kinds]
        if not self._weights:
            raise UserError("backbone: has no layer before the head, whose weights were divided")
        n = sum(weight.numel() for weight in self._weights.values())
        self.register_buffer("owner", torch.full((n,), FREE, dtype=torch.int16))

    def _owners(self) -> Sequence[Tensor]:
        """`owner` in the shapes of the weights; views of it."""
        weights = self._weights.values()
        parts = self.owner.split([weight.numel() for weight in weights])
        return [part.view_as(weight) for part, weight in zip(parts, weights, strict=True)]

    def _head(self) -> tuple[list[nn.Module], Sequence[int]]:
        """The head's linear layers, and the label of each of their rows, one after another."""
        head = self._networks[1]
        if isinstance(head, Linear):
            return list(head.blocks), head.classes
        return [head], range(len(head.weight))

    def own(self, classes: Collection[int]) -> None:
        """The rows of the head for `classes` are the current task's, to be called in `grow`."""
        rows = torch.tensor([label in classes for label in self._head()[1]])
        self.register_buffer("own_rows", rows, persistent=False)

    @torch.no_grad()
    def prune(self, part: float, task: int) -> None:
        """Of each layer's free weights, set the smallest to 0, and give the others to `task`.

        Args:
            part: how many of them to prune, rounded down.
            task: number of the task.
        """
        for weight, owner in zip(self._weights.values(), self._owners(), strict=True):
            free = (owner == FREE).flatten().nonzero().squeeze(1)
            order = weight.flatten()[free].abs().argsort(stable=True)
            pruned, kept = order.tensor_split([int(part * len(free))])
            owner.view(-1)[free[kept]] = task
            weight.view(-1)[free[pruned]] = 0

    def snapshot(self) -> list[Tensor]:
        """Copies of the weights and of the head's parameters."""
        return [p.detach().clone() for p in self._every()]

    def _every(self) -> list[nn.Parameter]:
        rows = [p for block in self._head()[0] for p in block.parameters()]
        return [*self._weights.values(), *rows]

    @torch.no_grad()
    def put_back(self, before: Sequence[Tensor], owner: int) -> None:
        """Undo what changed since a `snapshot` but for `owner`'s weights and the task's rows."""
        masks = [of == owner for of in self._owners()]
        blocks, _ = self._head()
        parts = self.own_rows.split([len(next(block.parameters())) for block in blocks])
        for block, rows in zip(blocks, parts, strict=True):
            masks += [rows.view(-1, *[1] * (p.dim() - 1)) for p in block.parameters()]
        for p, mask, old in zip(self._every(), masks, before, strict=True):
            p.copy_(torch.where(mask, p, old))

    def scores(self, x: Tensor, task: int) -> Tensor:
        """Scores with the weights of the tasks up to `task` alone: [B, C, H, W] -> [B, classes]."""
        pairs = zip(self._weights.items(), self._owners(), strict=True)
        masked = {name: torch.where(owner <= task, w, 0) for (name, w), owner in pairs}
        logits: Tensor = functional_call(self._networks[0], masked, (x,))
        return logits

    def frozen(self, tasks: int, labels: Collection[int]) -> dict[str, Tensor]:
        """Copies of the weights of the first `tasks` tasks, all `shared`, the rows of `labels`."""
        pairs = zip(self._weights.items(), self._owners(), strict=True)
        found = {
            f"{name} of task {task}": weight.detach()[owner == task]
            for (name, weight), owner in pairs
            for task in range(tasks)
        }
        found |= {f"shared.{i}": p.detach().clone() for i, p in enumerate(self.shared)}
        blocks, names = self._head()
        numbers = [i for i, name in enumerate(names) if name in labels]
        for kind in ("weight", "bias"):
            rows = torch.cat([getattr(block, kind).detach() for block in blocks])
            found |= {f"head.{kind} of class {names[i]}": rows[i].clone() for i in numbers}
        return found
