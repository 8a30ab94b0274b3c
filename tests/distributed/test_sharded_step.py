"""A step in shards, on one process: by hand, and against the step in one piece."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kit import MakeTrainer
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector

from perdure.backbones.base import Backbone
from perdure.backbones.mlp import MLP
from perdure.buffers.base import Buffer
from perdure.buffers.reservoir import Reservoir
from perdure.datasets.arrays import Arrays
from perdure.datasets.batch import Batch
from perdure.datasets.transforms import CropFlip, Scale
from perdure.distributed.control_flags import ControlFlags
from perdure.distributed.process_group import Ranks
from perdure.distributed.reduction import OrderedReduction, OverlappedReduction
from perdure.distributed.sharded_step import _pack, _unpack
from perdure.errors import UserError
from perdure.models.agem import AGEM
from perdure.models.base import Loss, Method, Task
from perdure.models.derpp import DERpp
from perdure.models.er import ER
from perdure.models.er_ace import ERACE
from perdure.models.sgd import FineTuning
from perdure.randomness import Streams
from perdure.training.optim import SGD
from perdure.training.settings import Settings
from perdure.training.state import Position
from perdure.training.step import Step

CPU = torch.device("cpu")


def step_of(method: Method, shards: int, transform: Scale | None = None, **options: Any) -> Step:
    method.task = Task(0, range(10), range(10))
    buffer = Buffer(Reservoir(50, 7)) if method.replays else None
    chosen = Settings(batch_size=10, shards=shards, **options)
    return Step(method, transform or Scale(), buffer, Streams(7), chosen, CPU)


def take(step: Step, tiny: Arrays, steps: int, n: int = 10) -> list[Tensor]:
    optimizer, losses = SGD(step.method.trainable(), lr=0.1), []
    for k in range(steps):
        raw, y = tiny.train.x[n * k : n * k + n], tiny.train.y[n * k : n * k + n]
        losses.append(step(raw, y, y.numpy(), optimizer, Position(0, 0, k, k)))
    return losses


def network() -> MLP:
    torch.manual_seed(0)
    return MLP((1, 28, 28), 10, (12,))


METHODS = {
    "sgd": FineTuning, "er": ER, "er-ace": ERACE, "agem": AGEM,
    "derpp": lambda backbone: DERpp(backbone, 0.5, 0.5),
}  # fmt: skip


@pytest.mark.parametrize("n", [10, 3], ids=["even", "empty-shards"])
@pytest.mark.parametrize("name", METHODS)
def test_parts_add_up_to_the_whole(tiny: Arrays, name: str, n: int) -> None:
    """Weights and losses agree up to rounding with the batch in one piece, buffers exactly."""
    ends = []
    for shards in (1, 4):
        method: Any = METHODS[name](network())
        step = step_of(method, shards, CropFlip(padding=2))
        losses = take(step, tiny, 6, n)
        held = {} if step.replay is None else step.replay.buffer.contents()
        ends.append((parameters_to_vector(method.trainable()).detach(), losses, held))
    torch.testing.assert_close(ends[1][0], ends[0][0], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(ends[1][1], ends[0][1], rtol=1e-4, atol=1e-6)
    for key in ("raw", "y"):
        if ends[0][2]:
            assert torch.equal(ends[1][2][key], ends[0][2][key])


def test_a_step_is_the_sum_of_its_shards_in_their_order(tiny: Arrays) -> None:
    """10 examples over 4 shards by hand: 3, 3, 2, 2, each divided by 10, added one by one."""
    ours, twin = FineTuning(network()), FineTuning(network())
    (loss,) = take(step_of(ours, 4), tiny, 1)
    x, y = tiny.train.x[:10].float() / 255, tiny.train.y[:10]
    total, value = None, None
    for start, stop in ((0, 3), (3, 6), (6, 8), (8, 10)):
        part = nn.functional.cross_entropy(twin(x[start:stop]), y[start:stop], reduction="sum") / 10
        gradient = torch.autograd.grad(part, twin.trainable())
        total = gradient if total is None else [a + b for a, b in zip(total, gradient, strict=True)]
        value = part.detach() if value is None else value + part.detach()
    for p, q, g in zip(ours.trainable(), twin.trainable(), total or (), strict=True):
        assert torch.equal(p.grad, g)  # type: ignore[arg-type]
        assert torch.equal(p, q.detach().add(g, alpha=-0.1))
    assert torch.equal(loss, value)  # type: ignore[arg-type]


class Noisy(Backbone):
    """Batch norm and dropout; counts the masks that it drew."""

    def __init__(self) -> None:
        super().__init__(784, 10)
        self.norm = nn.BatchNorm1d(784)
        self.masks: list[Tensor] = []

    def features(self, x: Tensor) -> Tensor:
        self.masks.append(torch.rand(4))
        out: Tensor = self.norm(x.flatten(1))
        return out


def test_running_statistics_are_those_of_the_first_shard(tiny: Arrays) -> None:
    method, expected = FineTuning(Noisy()), nn.BatchNorm1d(784)
    take(step_of(method, 4), tiny, 3)
    for k in range(3):
        expected((tiny.train.x[10 * k : 10 * k + 3].float() / 255).flatten(1))
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        assert torch.equal(getattr(method.backbone.norm, name), getattr(expected, name))


def test_every_shard_draws_for_itself(tiny: Arrays) -> None:
    """Four shards, four masks at each step; the first is that of a batch in one piece."""
    method, whole = FineTuning(Noisy()), FineTuning(Noisy())
    take(step_of(method, 4), tiny, 2)
    take(step_of(whole, 1), tiny, 2)
    masks = [tuple(mask.tolist()) for mask in method.backbone.masks]
    assert len(set(masks)) == len(masks) == 8
    assert [masks[0], masks[4]] == [tuple(mask.tolist()) for mask in whole.backbone.masks]


def test_a_shard_of_one_example_has_no_batch_statistics(tiny: Arrays) -> None:
    with pytest.raises(UserError, match=r"training\.shards=4: a shard of a single example"):
        take(step_of(FineTuning(Noisy()), 4), tiny, 1, n=5)


def test_a_replay_draw_of_one_example_has_no_batch_statistics(tiny: Arrays) -> None:
    method = DERpp(Noisy(), 0.5, 0.5)
    method.task = Task(0, range(10), range(10))
    step = Step(
        method,
        Scale(),
        Buffer(Reservoir(50, 1)),
        Streams(7),
        Settings(batch_size=10, shards=1),
        CPU,
    )
    with pytest.raises(UserError, match="a replay draw of a single example has no batch stat"):
        take(step, tiny, 2)


class Contrasting(FineTuning):
    """A loss of pairs: no mean over examples."""

    additive = False

    def loss(self, batch: Batch, *replay: Batch) -> Loss:
        return torch.cdist(self(batch.x), self(batch.x)).mean()


def test_a_loss_that_is_no_mean_cannot_be_split(make_trainer: MakeTrainer) -> None:
    make_trainer(Contrasting)
    with pytest.raises(UserError, match="the loss of Contrasting is not a mean over examples"):
        make_trainer(Contrasting, shards=2)


def test_shards_must_be_shared_equally(make_trainer: MakeTrainer) -> None:
    with pytest.raises(UserError, match="start 1 or 2 or 4 of them"):
        make_trainer(shards=4, ranks=Ranks(0, 3))


@settings(max_examples=60)
@given(
    shapes=st.lists(st.lists(st.integers(0, 3), max_size=3), min_size=1, max_size=5),
    dtypes=st.lists(st.sampled_from([torch.float32, torch.uint8, torch.int64, torch.bfloat16])),
    rows=st.integers(1, 3),
)
def test_packed_tensors_come_back_as_they_were(
    shapes: list[list[int]], dtypes: list[torch.dtype], rows: int
) -> None:
    kinds = [*dtypes, *[torch.float64] * len(shapes)]
    packed = [
        {
            "loss": torch.rand(()),
            **{f"{i}": torch.randint(0, 99, shape).to(kinds[i]) for i, shape in enumerate(shapes)},
        }
        for _ in range(rows)
    ]
    layout = {name: (value.shape, value.dtype) for name, value in packed[0].items()}
    found = _unpack(torch.stack([_pack(row) for row in packed]), layout)
    for i, row in enumerate(packed):
        for name, value in row.items():
            assert torch.equal(found[name][i], value)
            assert found[name].dtype == value.dtype


def test_overlapped_gradients_are_those_in_order(tiny: Arrays) -> None:
    ends = []
    for exact in (True, False):
        method = ER(network())
        take(step_of(method, 3, exact=exact), tiny, 5)
        ends.append(parameters_to_vector(method.trainable()).detach())
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-5, atol=1e-7)


def test_buckets_go_from_the_last_parameter_to_the_first() -> None:
    layers = [nn.Parameter(torch.zeros(2**22)) for _ in range(4)]  # 16 MB each
    buckets = OverlappedReduction(layers, Ranks()).buckets
    assert [len(bucket) for bucket in buckets] == [2, 2]
    assert buckets[0][0] is layers[3]
    assert buckets[1][1] is layers[0]


def test_a_parameter_out_of_reach_has_a_gradient_of_zero() -> None:
    used, unused = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(3))
    reduction = OrderedReduction([used, unused])
    (3 * used.sum()).backward()
    row = reduction.take()
    assert row is not None
    assert used.grad is None
    reduction.finish(torch.stack([row, row]))
    assert torch.equal(used.grad, torch.full((2,), 6.0))  # type: ignore[arg-type]
    assert torch.equal(unused.grad, torch.zeros(3))  # type: ignore[arg-type]


def test_all_ranks_follow_the_flags_of_one_and_once() -> None:
    reasons: list[str | None] = [None]
    control = ControlFlags(Ranks(0, 2), CPU, stop=lambda: reasons[-1])
    assert control.local().tolist() == [0, 0]
    assert control.read(1) == (None, False)
    control.merge(torch.tensor([0, 1], dtype=torch.uint8))
    assert control.read(2) == (None, True)
    assert control.read(3) == (None, False)
    control.merge(torch.tensor([1, 0], dtype=torch.uint8))
    reason, save = control.read(4)
    assert reason == "stopped by a signal to another process of the run"
    assert not save
    reasons.append("stopped by SIGTERM")
    assert control.local().tolist() == [1, 0]
    control.merge(control.local())
    assert control.read(5)[0] == "stopped by SIGTERM"
