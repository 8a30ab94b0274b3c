"""The cost ledger: operations by hand, examples, bytes, and the same after a resume."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch
from kit import MakeTrainer, assert_same, without_clock

from perdure.audit.exactness import Saved
from perdure.backbones.mlp import MLP
from perdure.backbones.resnet import ReducedResNet18
from perdure.buffers.base import Buffer
from perdure.buffers.reservoir import Reservoir
from perdure.datasets.arrays import Arrays
from perdure.datasets.scenarios import ClassIncremental
from perdure.models.agem import AGEM
from perdure.models.base import Method
from perdure.models.derpp import DERpp
from perdure.models.er import ER
from perdure.models.ewc_online import EWCOnline
from perdure.models.from_scratch import FromScratch
from perdure.models.lwf import LwF
from perdure.models.sgd import FineTuning
from perdure.training.cost import weights
from perdure.training.optim import SGD, OptimizerFactory
from perdure.training.recording import Recording
from perdure.training.settings import Settings
from perdure.training.trainer import Trainer

WIDTH, PIXELS, CLASSES, BATCH = 12, 784, 10, 10
FORWARD = 2 * (PIXELS * WIDTH + WIDTH * CLASSES)
"""Operations of an example's forward pass."""
BACKWARD = 2 * (PIXELS * WIDTH + 2 * WIDTH * CLASSES)
"""Of its backward pass: the gradient of each weight, and that of the hidden units."""


def trainer_of(
    kind: Any, arrays: Arrays, saved: Saved | None = None, size: int = 25, **options: Any
) -> Trainer:
    benchmark = ClassIncremental(arrays, 2)
    torch.manual_seed(0)
    shards = options.pop("shards", 1)
    updates = options.pop("updates", 1)
    method: Method = kind(MLP(benchmark.shape, CLASSES, (WIDTH,)), **options)
    return Trainer(
        method,
        benchmark,
        Settings(batch_size=BATCH, epochs=2, seed=1, shards=shards, updates=updates),
        OptimizerFactory(lambda groups: SGD(groups, lr=0.05)),
        Buffer(Reservoir(size, BATCH)),
        recording=Recording(checkpoints=saved),
    )


def cost_of(kind: Any, arrays: Arrays, **options: Any) -> dict[str, Any]:
    cost: dict[str, Any] = trainer_of(kind, arrays, **options).fit()["cost"]
    return cost


@pytest.mark.parametrize(
    ("kind", "options", "forward", "backward", "passes"),
    [
        (FineTuning, {}, BATCH, BATCH, (1, 1)),
        (ER, {}, 2 * BATCH, 2 * BATCH, (1, 1)),
        (ER, {"shards": 2}, 2 * BATCH, 2 * BATCH, (1, 1)),
        (ER, {"updates": 3}, 6 * BATCH, 6 * BATCH, (3, 3)),
        (DERpp, {"alpha": 0.5, "beta": 0.5}, 3 * BATCH, 3 * BATCH, (1, 1)),
        # The current network on the batch, the earlier one too, which learns nothing.
        (LwF, {"alpha": 1.0, "temperature": 2.0}, 2 * BATCH, BATCH, (2, 1)),
        (AGEM, {}, 2 * BATCH, 2 * BATCH, (2, 2)),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_the_operations_of_a_step(
    kind: type[Method],
    options: dict[str, Any],
    forward: int,
    backward: int,
    passes: tuple[int, int],
    tiny: Arrays,
) -> None:
    step = cost_of(kind, tiny, **options)["step"]
    assert step == {
        "flops": forward * FORWARD + backward * BACKWARD,
        "forward_passes": passes[0],
        "forward_examples": forward,
        "backward_passes": passes[1],
        "backward_examples": backward,
    }


def test_convolutions_are_counted(tiny: Arrays) -> None:
    """A 3x3 convolution of 1 to 20 channels on 28x28, and so on, against torch's own counter."""
    from torch.utils.flop_counter import FlopCounterMode

    benchmark = ClassIncremental(tiny, 2)
    network = ReducedResNet18(benchmark.shape, CLASSES)
    settings = Settings(batch_size=BATCH, epochs=1, seed=1)
    factory = OptimizerFactory(lambda groups: SGD(groups, lr=0.05))
    found = Trainer(FineTuning(network), benchmark, settings, factory).fit()["cost"]["step"]
    x, y = torch.rand(BATCH, *benchmark.shape), torch.arange(BATCH)
    with FlopCounterMode(display=False) as counter:
        torch.nn.functional.cross_entropy(network(x), y).backward()
    assert found["flops"] == counter.get_total_flops() > 10**8
    assert (found["forward_examples"], found["forward_passes"]) == (BATCH, 1)


def test_examples_and_totals(tiny: Arrays) -> None:
    benchmark, cost = ClassIncremental(tiny, 2), cost_of(ER, tiny)
    n = [benchmark.n_train(task) for task in range(2)]
    phases = cost["phases"]
    assert [(p["task"], p["phase"], p["data"]) for p in phases] == [
        (0, "main", "task"),
        (1, "main", "task"),
    ]
    assert [p["trained"] for p in phases] == [2 * each for each in n]
    assert [p["steps"] for p in phases] == [2 * -(-each // BATCH) for each in n]
    assert phases[0]["replayed"] == BATCH * (phases[0]["steps"] - 1)  # none in the first step
    assert cost["examples"] == {
        "trained": 2 * sum(n),
        "replayed": sum(p["replayed"] for p in phases),
    }
    assert cost["flops"] == sum(p["steps"] * p["step"]["flops"] for p in phases)
    assert cost["clock"]["peak_memory_bytes"] > 10**8


def test_bytes_by_kind(tiny: Arrays) -> None:
    n = PIXELS * WIDTH + WIDTH + WIDTH * CLASSES + CLASSES
    er = cost_of(ER, tiny)
    assert er["parameters"] == {"trainable": n, "frozen": 0, "other_networks": 0}
    assert er["exemplars"] == {"held": 25, "bytes_each": PIXELS + 8}
    assert er["bytes"]["exemplars"] == 25 * (PIXELS + 8)
    assert er["bytes"]["total"] == 4 * n + 25 * (PIXELS + 8)
    logits = cost_of(DERpp, tiny, alpha=0.5, beta=0.5)
    assert logits["exemplars"]["bytes_each"] == PIXELS + 8 + 4 * CLASSES
    ewc = cost_of(EWCOnline, tiny, strength=1.0, decay=1.0)
    assert ewc["bytes"]["statistics"] == 2 * 4 * n
    scratch = cost_of(FromScratch, tiny)
    assert scratch["parameters"]["other_networks"] == n
    assert scratch["bytes"]["other_networks"] == 4 * n
    assert scratch["bytes"]["exemplars"] == 0


def test_statistics_of_batch_norm_and_extra_state_are_counted() -> None:
    class Extra(FineTuning):
        def get_extra_state(self) -> dict[str, Any]:
            return {"scores": [torch.zeros(5, dtype=torch.float64)], "n": 3}

        def set_extra_state(self, state: Any) -> None: ...

    method = Extra(ReducedResNet18((1, 28, 28), CLASSES))
    numbers, sizes = weights(method)
    assert numbers["frozen"] == 0
    buffers = list(method.backbone.buffers())
    assert sizes["frozen"] == sum(b.numel() * b.element_size() for b in buffers) > 0
    assert sizes["statistics"] == 40


@pytest.mark.parametrize("kind", [ER, FromScratch])
def test_a_resumed_run_ends_with_the_same_ledger(kind: type[Method], tiny: Arrays) -> None:
    """From before the probed step, after it, and between the tasks."""
    saved = Saved()
    whole = trainer_of(kind, tiny, saved).fit()["cost"]
    for number in (2, 12, saved.ended[0], len(saved.states) - 3):
        trainer = trainer_of(kind, tiny)
        trainer.load_state_dict(saved.state(number))
        found = trainer.fit()["cost"]
        assert_same(without_clock(found), without_clock(whole))
        for phase, expected in zip(found["phases"], whole["phases"], strict=True):
            assert phase["seconds"] >= 0
            assert expected["seconds"] > 0


def test_of_a_run_that_was_not_counted_from_its_start_nothing_is_said(tiny: Arrays) -> None:
    saved = Saved()
    trainer_of(ER, tiny, saved).fit()
    state = saved.state(3)
    del state["results"]["cost"]
    trainer = trainer_of(ER, tiny)
    trainer.load_state_dict(state)
    assert trainer.fit()["cost"] is None
    again = io.BytesIO()
    torch.save(trainer.state_dict(), again)
    other = trainer_of(ER, tiny)
    other.load_state_dict(torch.load(io.BytesIO(again.getvalue()), weights_only=True))
    assert other.state.summary()["cost"] is None


def test_probing_changes_no_bit(make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch) -> None:
    probed = make_trainer()
    probed.fit()
    monkeypatch.setattr("perdure.training.trainer.PROBED_STEP", -5)
    plain = make_trainer()
    plain.fit()
    assert plain.state.summary()["cost"]["flops"] == 0 < probed.state.summary()["cost"]["flops"]
    for name, value in probed.method.state_dict().items():
        assert torch.equal(value, plain.method.state_dict()[name]), name
