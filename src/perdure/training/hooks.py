"""A method's hooks around a task (grow, before_task, after_task, annotate), in their order.

Before each hook torch's generators are seeded from its place, so that what it draws is the same
after a resume, on any number of processes, and whatever was drawn before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

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
from perdure.randomness import Streams
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
        self.grows = method.defines("grow")
        self.grown = -1
        self._transform = transform
        self._streams = Streams(settings.seed)
        self._device = next(method.parameters()).device

    def task(self, index: int) -> Task:
        """What the method may know of task `index`; joint training has all classes at once."""
        joint = self.settings.joint
        last = self.benchmark.n_tasks - 1 if joint else index
        return Task(
            index,
            Classes.of(range(self.benchmark.n_classes) if joint else self.benchmark.classes(index)),
            self.benchmark.seen(last),
        )

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
            self.method.grow(self.method.task)
            self.method.to(self._device)
            self.grown = task
            grown(task)

    def before_task(self, split: Split) -> None:
        """The task starts; its training examples are in `split`."""
        self._seed("before_task")
        self.method.before_task(self._all_of(split))
        self.method.train()

    def after_task(self, split: Split) -> dict[str, Tensor]:
        """The task is trained. Returns the stored fields of its examples, to be offered now.

        Empty where the method stores at each step.
        """
        self._seed("after_task")
        self.method.after_task(self._all_of(split), self.memory)
        stored: dict[str, Tensor] = {}
        if self.method.store_at == "task" and self.method.stored_fields:
            stored = self._annotated(split)
        self.method.train()
        return stored

    @torch.no_grad()
    def _annotated(self, split: Split) -> dict[str, Tensor]:
        self._seed("annotate")
        self.method.eval()
        found = [
            self.method.annotate(batch)
            for batch in self._all_of(split)(self.settings.eval_batch_size)
        ]
        return {name: torch.cat([each[name] for each in found]) for name in found[0]}

    def _seed(self, hook: str) -> None:
        self._streams.seed_torch(hook, task=self.method.task.index)

    def _all_of(self, split: Split) -> Callable[[int], Iterable[Batch]]:
        """The task's examples without augmentation, in a fixed order."""

        def data(n: int) -> Iterator[Batch]:
            for raw, y in zip(split.x.split(n), split.y.split(n), strict=True):
                yield Batch(raw, y, self._transform)

        return data
