"""Refused before training: empty tasks, images that do not fit, batch norm on one example."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from kit import Listener
from torch import Tensor, nn

from perdure.backbones.base import Backbone
from perdure.backbones.mlp import MLP
from perdure.backbones.resnet import ResNet18
from perdure.buffers.base import Buffer
from perdure.buffers.reservoir import Reservoir
from perdure.datasets.arrays import Arrays, Split
from perdure.datasets.scenarios import ClassIncremental, PermutedPixels, Scenario
from perdure.datasets.transforms import CropFlip, Scale
from perdure.errors import UserError
from perdure.models.derpp import DERpp
from perdure.models.er import ER
from perdure.models.sgd import FineTuning
from perdure.randomness import seed_initialization
from perdure.tracking.events import Evaluation, RunStart, TaskStart
from perdure.training.recording import Recording
from perdure.training.settings import Settings
from perdure.training.trainer import Trainer


def split(counts: Sequence[int], channels: int = 1, size: int = 8) -> Split:
    """`counts[c]` examples of each class."""
    y = torch.tensor(range(len(counts))).repeat_interleave(torch.tensor(counts))
    images = torch.arange(len(y) * channels * size * size) * 37 % 256
    return Split(images.to(torch.uint8).view(len(y), channels, size, size), y)


def arrays(train: Sequence[int], test: Sequence[int] = (9, 9, 9, 9), **shape: int) -> Arrays:
    return Arrays(split(train, **shape), split(test, **shape), tuple("abcd"))


class Normed(Backbone):
    """Batch norm over features: a single example has no variance."""

    def __init__(self, input_shape: tuple[int, int, int], n_classes: int) -> None:
        super().__init__(6, n_classes)
        self.first = nn.LazyLinear(6)
        self.norm = nn.BatchNorm1d(6)
        self.first(torch.zeros(1, input_shape[0] * input_shape[1] * input_shape[2]))

    def features(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm(self.first(x.flatten(1)))
        return out


def trainer(
    benchmark: Scenario, network: Any = MLP, listener: Listener | None = None, **options: Any
) -> Trainer:
    transform = options.pop("transform", None)
    seed_initialization(0)
    method = FineTuning(network(benchmark.shape, benchmark.n_classes))
    settings = Settings(**{"batch_size": 10, **options})
    recording = Recording(recorders=[] if listener is None else [listener])
    return Trainer(method, benchmark, settings, transform=transform, recording=recording)


# --- tasks without examples -----------------------------------------------------------------------


class Reversed(ClassIncremental):
    """A scenario of somebody's own, which takes other examples than its base."""

    def _take(self, split: Split, task: int) -> Split:
        return super()._take(split, self.n_tasks - 1 - task)


@pytest.mark.parametrize("kind", [ClassIncremental, PermutedPixels, Reversed])
def test_counts_are_those_of_the_examples(kind: type[Scenario]) -> None:
    benchmark = kind(arrays([3, 4, 5, 1], [2, 0, 1, 7]), 2, validation=0.0)
    for task in range(2):
        assert benchmark.n_train(task) == len(benchmark.train(task))
        assert benchmark.n_evaluation(task) == len(benchmark.evaluation(task))


@pytest.mark.parametrize(
    ("train", "test", "options", "says"),
    [
        ([5, 5, 0, 0], [9] * 4, {}, r"task 1 \(classes c, d\) has no training examples"),
        ([0, 0, 5, 5], [9] * 4, {}, r"task 0 \(classes a, b\) has no training examples"),
        ([5] * 4, [9, 9, 0, 0], {}, r"task 1 \(classes c, d\) has no test examples"),
        ([5] * 4, [9, 9, 0, 0], {"mode": "joint"}, r"task 1 .* has no test examples"),
        (
            [5] * 4,
            [9, 9, 0, 0],
            {"evaluate_future": True, "stop_after": 1},
            r"task 1 .* has no test examples",
        ),
    ],
    ids=["last", "first", "test", "joint", "future"],
)
def test_an_empty_task_is_refused_before_training(
    train: list[int], test: list[int], options: dict[str, Any], says: str
) -> None:
    with pytest.raises(UserError, match=says):
        trainer(ClassIncremental(arrays(train, test), 2), **options)


def test_a_task_that_is_never_reached_may_be_empty() -> None:
    benchmark = ClassIncremental(arrays([5, 5, 0, 0], [9, 9, 0, 0]), 2)
    assert trainer(benchmark, stop_after=1).fit()["status"] == "finished"
    benchmark = ClassIncremental(arrays([5, 5, 0, 0]), 2)
    assert trainer(benchmark, mode="joint").fit()["status"] == "finished"


def test_a_task_whose_classes_cannot_be_split_is_refused() -> None:
    benchmark = ClassIncremental(arrays([2, 2, 1, 1]), 2, validation=0.1)
    with pytest.raises(UserError, match=r"task 1 \(classes c, d\) has no validation examples"):
        trainer(benchmark)


@pytest.mark.parametrize("seed", [-1, -(2**40), 1.5])
def test_seeds_are_integers_from_0(seed: Any) -> None:
    with pytest.raises(UserError, match=rf"seed={seed}: must be an integer, 0 or more"):
        Settings(batch_size=1, seed=seed)
    with pytest.raises(UserError, match=rf"dataset.seed={seed}: must be an integer, 0 or more"):
        ClassIncremental(arrays([1] * 4), 2, seed=seed)


# --- images that do not fit -----------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Scale, CropFlip])
@pytest.mark.parametrize(("channels", "given"), [(1, 3), (3, 2), (3, 4)])
def test_a_mean_of_other_channels_is_refused_before_training(
    kind: type[Scale], channels: int, given: int
) -> None:
    benchmark = ClassIncremental(arrays([5] * 4, channels=channels), 2)
    with pytest.raises(UserError, match=rf"{given} entries and the images {channels} channels"):
        trainer(benchmark, transform=kind([0.5] * given, [0.2] * given))
    one = trainer(benchmark, transform=kind([0.5], [0.2]))
    each = trainer(benchmark, transform=kind([0.5] * channels, [0.2] * channels))
    assert one.fit()["accuracy_matrix"] == each.fit()["accuracy_matrix"]


def test_a_transform_that_fails_is_named_before_training() -> None:
    class Grey(Scale):
        def __call__(self, raw: Tensor, augmentation: Tensor | None = None) -> Tensor:
            return super().__call__(raw).view(len(raw), 3, -1)

    with pytest.raises(UserError, match=r"dataset.transform: does not fit images of 1x8x8 "):
        trainer(ClassIncremental(arrays([5] * 4), 2), transform=Grey())


# --- batch norm on a single example ---------------------------------------------------------------


def steps_of(listener: Listener) -> list[int]:
    return [event.steps_per_epoch for event in listener.of(TaskStart)]


@pytest.mark.parametrize("network", [Normed, lambda *a: ResNet18(*a, width=1)])
@pytest.mark.parametrize("options", [{}, {"mode": "joint"}, {"epochs": 2, "evaluate_every": 1}])
def test_a_single_example_left_over_joins_the_last_batch(
    network: Any, options: dict[str, Any]
) -> None:
    """11 examples a task, 21 at once, in batches of 10 (the ResNet ends at 1x1 pixels)."""
    listener = Listener()
    counts = [5, 5, 5, 6] if options.get("mode") == "joint" else [5, 6, 6, 5]
    run = trainer(ClassIncremental(arrays(counts), 2), network, listener, **options)
    assert run.fit()["status"] == "finished"
    assert steps_of(listener) == ([2] if options.get("mode") == "joint" else [1, 1])
    assert listener.of(Evaluation)
    (start,) = listener.of(RunStart)
    assert any("fewer than 2 that an epoch leaves over" in line for line in start.notices)


def test_each_shard_gets_two_examples() -> None:
    """15 = 10 + 5: of two shards the smaller one has 2; of three, 1."""
    for shards, steps in ((1, 2), (2, 2), (3, 1)):
        listener = Listener()
        benchmark = ClassIncremental(arrays([7, 8, 8, 7]), 2)
        trainer(benchmark, Normed, listener, shards=shards).fit()
        assert steps_of(listener) == [steps, steps]


@pytest.mark.parametrize(
    "network",
    [MLP, lambda shape, n: ResNet18(shape, n, width=1)],
    ids=["without batch norm", "batch norm over pixels"],
)
def test_where_one_example_can_be_trained_on_nothing_is_merged(network: Any) -> None:
    listener = Listener()
    benchmark = ClassIncremental(arrays([5, 6, 6, 5], size=16), 2)
    trainer(benchmark, network, listener).fit()
    assert steps_of(listener) == [2, 2]
    assert trainer(benchmark, network, batch_size=1, iterations=2).fit()["status"] == "finished"


@pytest.mark.parametrize(
    ("counts", "options", "says"),
    [
        ([5] * 4, {"batch_size": 1}, r"dataset.batch_size=1: .*batch norm .*give 2 or more"),
        ([5] * 4, {"batch_size": 3, "shards": 2}, r"dataset.batch_size=3: .*give 4 or more"),
        ([5, 5, 1, 0], {}, r"task 1 has 1 training examples, .*batch norm needs 2"),
    ],
    ids=["batch", "shards", "task"],
)
def test_what_batch_norm_cannot_train_on_is_refused_before_training(
    counts: list[int], options: dict[str, Any], says: str
) -> None:
    with pytest.raises(UserError, match=says):
        trainer(ClassIncremental(arrays(counts), 2), Normed, **options)


def test_a_replay_draw_of_one_ends_in_a_sentence() -> None:
    """ER's joins the batch; DER++'s is a forward pass of its own."""
    benchmark, settings = ClassIncremental(arrays([6] * 4), 2), Settings(batch_size=4)
    for method in (ER, lambda network: DERpp(network, 0.5, 0.5)):
        run = Trainer(
            method(Normed(benchmark.shape, 4)), benchmark, settings, buffer=Buffer(Reservoir(9, 1))
        )
        if method is ER:
            assert run.fit()["status"] == "finished"
        else:
            with pytest.raises(UserError, match=r"batch norm .* give a larger buffer.batch_size"):
                run.fit()


def test_asking_the_network_leaves_no_trace_in_it() -> None:
    benchmark = ClassIncremental(arrays([5, 6, 6, 5], size=16), 2)
    network = ResNet18(benchmark.shape, 4, width=1)
    network.eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    Trainer(FineTuning(network), benchmark, Settings(batch_size=10))
    assert not network.training
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]), name
