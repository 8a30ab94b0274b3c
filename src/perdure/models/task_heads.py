"""Heads of past, present and future tasks: slices of the scores of one linear head (X-DER)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perdure.datasets.classes import Classes
from perdure.models.base import Task
from perdure.models.contrastive import supervised_contrastive
from perdure.models.distillation import similarity_distance


class TaskHeads(nn.Module):
    """Which scores belong to which task; classes to come are dealt out in their labels' order.

    Everything follows from the calls of `grow`, one a task, and is not saved.

    Attributes:
        task_of: int64 [n_classes], the task that a class came with; -1 of classes to come.
        is_past: bool [n_classes], the classes of earlier tasks.
        is_present: bool [n_classes], those of the task.
        future: the classes to come.
        heads: those of each task to come; none in the last task.
    """

    task_of: Tensor
    is_past: Tensor
    is_present: Tensor

    def __init__(self, n_classes: int) -> None:
        super().__init__()
        task_of = torch.full((n_classes,), -1)
        self.register_buffer("task_of", task_of, persistent=False)
        self.register_buffer("is_past", task_of >= 0, persistent=False)
        self.register_buffer("is_present", task_of >= 0, persistent=False)
        self.future = Classes(range(n_classes))
        self.heads: list[Classes] = []

    def grow(self, task: Task) -> None:
        assert task.n_tasks is not None
        labels = torch.arange(len(self.task_of), device=self.task_of.device)
        self.task_of[list(task.classes - task.past)] = task.index
        self.is_past.copy_(task.past.mask(labels))
        self.is_present.copy_(task.classes.mask(labels))
        self.future = Classes(range(len(labels))) - task.seen
        n = max(1, task.n_tasks - task.index - 1)
        parts = torch.tensor(list(self.future)).tensor_split(n)
        self.heads = [Classes(part.tolist()) for part in parts if len(part)]

    def exceeding(self, z: Tensor, y: Tensor, margin: float) -> Tensor:
        """How far the future reaches above an example's own head, []; there is a future.

        The mean of max_future + margin − max_own, over the examples where it is above 0.

        Args:
            z: float [B, n_classes].
            y: int64 [B].
            margin: between them.
        """
        is_own = self.task_of[y][:, None] == self.task_of
        own = z.masked_fill(~is_own, -torch.inf).amax(1)
        return _mean_above_zero(self.future.select(z).amax(1) + margin - own)

    def outdone(self, z: Tensor, margin: float) -> Tensor:
        """How far the past reaches above the present head in probability, []; there is a past.

        As `exceeding`, of the softmax over the classes seen, and only the present head learns.

        Args:
            z: float [B, n_classes], of the task's examples.
            margin: between them.
        """
        p = z.masked_fill(~(self.is_past | self.is_present), -torch.inf).softmax(1)
        past = p.masked_fill(self.is_present, 0).amax(1).detach()
        return _mean_above_zero(past + margin - p.masked_fill(~self.is_present, 0).amax(1))

    def contrast(self, z: Tensor, y: Tensor, temperature: float) -> Tensor:
        """The supervised contrastive loss in each future head, averaged, []; there is one.

        Args:
            z: float [B, n_classes].
            y: int64 [B].
            temperature: τ.
        """
        units = [F.normalize(head.select(z), dim=1) for head in self.heads]
        return torch.stack([supervised_contrastive(u, y, temperature) for u in units]).mean()

    def similarity(self, z: Tensor, logits: Tensor) -> Tensor:
        """How differently the examples resemble each other in each future head, averaged, [].

        Args:
            z: float [views, B, n_classes].
            logits: those stored, float [B, n_classes].
        """
        each = [
            similarity_distance(head.select(view), head.select(logits))
            for head in self.heads
            for view in z
        ]
        return torch.stack(each).mean()


def _mean_above_zero(excess: Tensor) -> Tensor:
    excess = excess.relu()
    return excess.sum() / (excess > 0).sum().clamp(min=1)
