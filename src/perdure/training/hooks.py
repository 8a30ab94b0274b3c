"""A method's hooks around a task (grow, before_task, before_phase, after_task, annotate).

Before each hook torch's generators are seeded from its place, so that what it draws is the same
after a resume, on any number of processes, and whatever was drawn before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from perdure.buffers.base import Buffer
from perdure.datasets.arrays import Split
from perdure.datasets.batch import Batch
from perdure.datasets.classes import Classes
from perdure.datasets.scenarios import Scenario
from perdure.datasets.transforms import Scale
from perdure.models.base import Method, Task
from perdure.models.memory import Memory
from perdure.models.phase import Phase
from perdure.randomness import Streams
from perdure.training.information import Information
from perdure.training.network_setup import autocast
from perdure.training.replay import stores_each_step
from perdure.training.settings import Settings


class Hooks:
    """Calls the hooks of `method`.

    Args:
        method: the method, on its device.
        benchmark: the tasks.
        settings: how to train.
        transform: raw bytes to inputs.
        buffer: what `after_task` sees as the memory.

    Attributes:
        stores: whether examples are offered to the buffer at a task's end.
        grows: whether the method has a structure that depends on the tasks.
        grown: index of the last task whose structure the method has, -1 at first.
    """

    def __init__(
        self,
        method: Method,
        benchmark: Scenario,
        settings: Settings,
        transform: Scale,
        buffer: Buffer | None = None,
    ) -> None:
        self.method = method
        self.benchmark = benchmark
        self.settings = settings
        self.memory = Memory(buffer, transform)
        self.stores = buffer is not None and not stores_each_step(method, buffer)
        self._fields = [name for name in method.stored_fields if name != "task"]
        self._information: Information | None = None
        if buffer is not None and buffer.policy.needs:
            device = next(method.parameters()).device
            precision = autocast(settings.precision, device)
            self._information = Information(method, buffer, transform, precision)
        self.grows = method.defines("grow") or method.backbone.grows
        self.grown = -1
        self._transform = transform
        self._streams = Streams(settings.seed)
        self._device = next(method.parameters()).device

    def task(self, index: int) -> Task:
        """What the method may know of task `index`; joint training has all classes at once."""
        joint = self.settings.joint
        last = self.benchmark.n_tasks - 1 if joint else index
        n_tasks = self.benchmark.n_tasks if self.method.needs_n_tasks else None
        if not (joint or self.benchmark.boundaries):
            return Task(index, Classes(), Classes(), n_tasks=n_tasks)
        return Task(
            index,
            Classes.of(range(self.benchmark.n_classes) if joint else self.benchmark.classes(index)),
            self.benchmark.seen(last),
            past=self.benchmark.seen(-1 if joint else index - 1),
            n_tasks=n_tasks,
        )

    def see(self, drawn: int) -> None:
        """In a stream without boundaries, `drawn` training examples have come by now.

        The method knows the labels that have occurred, and nothing of those to come.
        """
        if not self.settings.joint:
            task = self.method.task
            task.classes = task.seen = self.benchmark.seen(task.index, drawn)

    def grow_to(self, index: int, grown: Callable[[int], None] = lambda task: None) -> None:
        """Give the method the structure of the tasks up to `index`, one after another.

        A resumed run goes through it before the state is loaded.

        Args:
            index: of the last of these tasks.
            grown: called with each task that was new to the method.
        """
        for task in range(self.grown + 1, index + 1):
            self.method.task = self.task(task)
            self._seed("grow")
            self.method.backbone.grow(self.method.task.classes)
            self.method.grow(self.method.task)
            self.method.to(self._device)
            self.grown = task
            grown(task)

    def before_task(self, split: Split) -> None:
        """The task starts; its training examples are in `split`."""
        self._seed("before_task")
        self.method.before_task(self._all_of(split))
        self.method.train()

    def before_phase(self, phase: Phase, number: int, split: Split) -> None:
        """The `number`-th phase of the task starts, on the examples of `split`."""
        self._seed("before_phase", part=number)
        self.method.before_phase(phase, self._all_of(split), self.memory)
        self.method.train()

    @torch.no_grad()
    def before_evaluation(self, split: Split) -> None:
        """The method is about to be measured; `split` has the current task's examples."""
        if not self.method.defines("before_evaluation"):
            return
        training = self.method.training
        self.method.eval()
        self._seed("before_evaluation")
        self.method.before_evaluation(self.memory, self._all_of(split))
        self.method.train(training)

    def after_task(self, split: Split) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The task is trained. Returns what is known of its examples, to be offered now.

        Of the end of a stream without boundaries the method is told nothing.

        Returns:
            Their stored fields, and the information that the buffer's policy needs, by name; both
            empty where examples are offered at each step.
        """
        if self.benchmark.boundaries:
            self._seed("after_task")
            self.method.after_task(self._all_of(split), self.memory)
        stored: dict[str, Tensor] = {}
        info: dict[str, Any] = {}
        if self.stores:
            if self._fields:
                stored = self._annotations(split)
            if self._information is not None:
                batches = partial(self._all_of(split), self.settings.eval_batch_size)
                info = self._information.of_task(split.x, split.y, batches)
        self.method.train()
        return stored, info

    @torch.no_grad()
    def _annotations(self, split: Split) -> dict[str, Tensor]:
        """The stored fields of all examples, in evaluation mode."""
        self._seed("annotate")
        self.method.eval()
        batches = self._all_of(split)(self.settings.eval_batch_size)
        found = [self.method.annotate(batch) for batch in batches]
        return {name: torch.cat([each[name] for each in found]) for name in found[0]}

    def _seed(self, hook: str, part: int = 0) -> None:
        self._streams.seed_torch(hook, task=self.method.task.index, part=part)

    def _all_of(self, split: Split) -> Callable[[int], Iterable[Batch]]:
        """The task's examples without augmentation, in a fixed order."""

        def data(n: int) -> Iterator[Batch]:
            for raw, y in zip(split.x.split(n), split.y.split(n), strict=True):
                yield Batch(raw, y, self._transform)

        return data
