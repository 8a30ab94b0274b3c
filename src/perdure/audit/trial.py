"""Small training runs of an audited configuration, on a few examples of its benchmark."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from perdure.audit.exactness import Saved
from perdure.audit.excerpt import Excerpt
from perdure.backbones.base import Backbone
from perdure.config.build import build, locate
from perdure.config.schema import Config
from perdure.datasets.scenarios import Scenario
from perdure.datasets.transforms import Scale
from perdure.models.base import Method
from perdure.models.replay import uses_buffer
from perdure.run import assemble
from perdure.run.method_checks import method_class, replay_size
from perdure.training.optim import OptimizerFactory, optimizer_of
from perdure.training.recording import Recording
from perdure.training.schedules import Schedule
from perdure.training.trainer import Trainer

MOST_TASKS = 4
_BATCH = 10
_STEPS = 8
_LEAST_OF_CLASS = 4
_TESTS = 60


@dataclass(frozen=True)
class Trial:
    """Makes trainers of a configuration for an excerpt of its benchmark.

    Attributes:
        config: the configuration, cut down by `small`.
        whole: the benchmark.
        groups: which of its tasks each task of the excerpt is made of.
        search_path: overrides that say where else configuration files are.
        other_test: whether the test examples are altered.
        other_tail: whether the second half of each task's training examples is.
        around: what is done to a network before the method is built around it.
    """

    config: Config
    whole: Scenario
    groups: tuple[tuple[int, ...], ...]
    search_path: tuple[str, ...] = ()
    other_test: bool = False
    other_tail: bool = False
    around: Callable[[Backbone], Backbone] = lambda network: network

    @property
    def device(self) -> torch.device:
        """Where it is trained."""
        return self.whole.device

    @property
    def n_train(self) -> int:
        """Training examples of each of the benchmark's tasks, where it has as many."""
        classes = max(len(self.whole.classes(task)) for group in self.groups for task in group)
        return max(_STEPS * self.config.dataset.batch_size, _LEAST_OF_CLASS * classes)

    @property
    def benchmark(self) -> Excerpt:
        """The excerpt."""
        few = (self.n_train, _TESTS)
        return Excerpt(self.whole, self.groups, *few, self.other_test, self.other_tail)

    @property
    def capacity(self) -> int:
        """How many examples the buffer may hold; 0 for a method without one."""
        return replay_size(self.config, self.whole.n_classes)

    @property
    def transform(self) -> Scale:
        """Raw bytes to inputs."""
        made: Scale = build(self.config.dataset.transform, "dataset.transform")
        return made

    def method_class(self) -> type[Method]:
        """The class of the method."""
        return method_class(self.config)

    def policy_takes(self, name: str) -> bool:
        """Whether the buffer's policy says that it must know `name`, as `n_tasks`."""
        if not uses_buffer(self.method_class()):
            return False
        policy = locate(self.config.buffer["_target_"], "buffer")
        return name in inspect.signature(policy).parameters

    def with_options(self, group: str, **options: Any) -> Trial:
        """The same with other hyperparameters of the method (`model`) or its add-on (`addon`)."""
        changed: dict[str, Any] = {group: {**getattr(self.config, group), **options}}
        return replace(self, config=replace(self.config, **changed))

    def with_epochs(self, epochs: int) -> Trial:
        """The same with so many passes over each task."""
        dataset = replace(self.config.dataset, epochs=epochs)
        return replace(self, config=replace(self.config, dataset=dataset))

    def with_training(self, **changes: Any) -> Trial:
        """The same with other keys of `training`."""
        training = replace(self.config.training, **changes)
        return replace(self, config=replace(self.config, training=training))

    def trainer(self, checkpoints: Saved | None = None, **changes: Any) -> Trainer:
        """A fresh trainer.

        Args:
            checkpoints: gets the state at every step.
            changes: of the settings.
        """
        config, benchmark = self.config, self.benchmark
        torch.set_num_threads(1)
        method = assemble.make_method(config, benchmark, self.device, around=self.around)
        return Trainer(
            method,
            benchmark,
            replace(assemble.settings(config), **changes),
            OptimizerFactory(optimizer_of(config.optimizer), self._scheduler()),
            assemble.make_buffer(config, benchmark),
            self.transform,
            Recording(checkpoints=checkpoints),
        )

    def _scheduler(self) -> Schedule | None:
        node = self.config.scheduler
        return Schedule(node) if node and node.get("_target_") else None


def trial_of(config: Config, search_path: tuple[str, ...] = ()) -> Trial:
    """The trial of a configuration, on the first tasks of its benchmark.

    Args:
        config: the configuration.
        search_path: overrides that say where else configuration files are.

    Raises:
        UserError: the benchmark cannot be made.
    """
    device = assemble.choose_device(config.device)
    assemble.make_deterministic(config.deterministic, device)
    whole = assemble.make_benchmark(config, device)
    groups = tuple((task,) for task in range(min(MOST_TASKS, whole.n_tasks)))
    trial = Trial(config, whole, groups, search_path)
    return replace(trial, config=small(config, whole, len(groups), trial.n_train))


def small(config: Config, whole: Scenario, n_tasks: int, n_train: int) -> Config:
    """`config` for a few examples: short epochs, small batches, a buffer that overflows."""
    batch = min(_BATCH, config.dataset.batch_size)
    epochs = config.dataset.epochs
    dataset = replace(
        config.dataset,
        epochs=min(2, epochs) if isinstance(epochs, int) else 2,
        iterations=None,
        stop_after=None,
        batch_size=batch,
    )
    training = replace(
        config.training,
        evaluate_every=config.training.evaluate_every and 1,
        evaluate_every_task=1,
        evaluate_future=False,
        eval_batch_size=32,
        log_every=4,
        shards=None,
    )
    buffer: Mapping[str, Any] = config.buffer
    if "size" in buffer:
        offered = n_tasks * _STEPS * batch
        least = 2 * max(whole.n_classes, n_tasks)
        size = min(int(buffer["size"]), max(least, offered // 3))
        drawn = min(int(buffer.get("batch_size", batch)), _BATCH)
        buffer = {**buffer, "size": size, "batch_size": drawn}
    budget = replace(config.budget, bytes=None)
    return replace(config, dataset=dataset, training=training, buffer=buffer, budget=budget)
