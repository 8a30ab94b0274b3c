"""The contract of a method: growth, parameter groups, hooks that draw, no loss, the memory.

Each method here is the smallest that shows one part of it; whole runs are compared to the bit with
ones that were resumed, and with ones in shards.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from kit import Listener, MakeTrainer
from torch import Tensor, nn

from perdure.backbones.heads import Cosine
from perdure.datasets.batch import Batch
from perdure.errors import UserError
from perdure.models.base import Data, Loss, Method, StepOutput, Task
from perdure.models.derpp import DERpp
from perdure.models.er import ER
from perdure.models.memory import Memory
from perdure.models.phase import Phase
from perdure.models.sgd import FineTuning
from perdure.tracking.events import RunStart
from perdure.training.optim import SGD
from perdure.training.trainer import Trainer


def same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


def end_of(trainer: Trainer) -> dict[str, Any]:
    results = trainer.fit()
    state = trainer.state_dict()
    matrix = results["accuracy_matrix"]
    return {"matrix": matrix, **{key: state[key] for key in ("model", "optimizer", "buffer")}}


class Saved:
    """A checkpoint manager that keeps every state at a task's end."""

    def __init__(self) -> None:
        self.states: list[bytes] = []

    def save(self, state: dict[str, Any], context: Any) -> None:
        file = io.BytesIO()
        torch.save(state, file)
        self.states.append(file.getvalue())

    def step_due(self, position: Any) -> bool:
        return position.step in (7, 20)

    def time_due(self) -> bool:
        return False

    def wants_epochs(self) -> bool:
        return False

    def wait(self) -> None: ...

    def take_saved(self) -> list[Any]:
        return []

    def finish(self) -> None: ...


def require_exact_resume(make: Callable[..., Trainer]) -> dict[str, Any]:
    """Resumes from within each task and from each of its ends give the end of the whole run."""
    saved = Saved()
    whole = end_of(make(checkpoints=saved))
    assert len(saved.states) == 9
    for content in saved.states[:-1]:
        trainer = make()
        trainer.load_state_dict(torch.load(io.BytesIO(content), weights_only=True))
        assert same(end_of(trainer), whole)
    return whole


@pytest.fixture
def make(make_trainer: MakeTrainer) -> MakeTrainer:
    def of(method: Any, **changes: Any) -> Trainer:
        changes.setdefault("optimizer", lambda groups: SGD(groups, lr=0.1, momentum=0.5))
        return make_trainer(method, iterations=30, **changes)

    return of


class Blocks(ER):
    """A head of a block a task, behind a layer of its own."""

    def __init__(self, backbone: Any) -> None:
        super().__init__(backbone)
        self.heads = nn.ModuleList()

    def grow(self, task: Task) -> None:
        self.heads.append(nn.Linear(self.backbone.n_features, len(task.classes)))

    def forward(self, x: Tensor) -> Tensor:
        features = self.backbone.features(x)
        blocks = [head(features) for head in self.heads]
        seen = torch.cat(blocks, 1)
        missing = self.backbone.n_classes - seen.shape[1]
        return nn.functional.pad(seen, (0, missing), value=-30.0)


class GrowingHead(ER):
    """Experience replay with a cosine head that grows."""

    loss_scope = "seen"

    def __init__(self, backbone: Any) -> None:
        super().__init__(backbone)
        backbone.head = Cosine(backbone.n_features, backbone.n_classes, growing=True)

    def grow(self, task: Task) -> None:
        self.backbone.grow(task.classes)


def test_a_head_that_grows_is_trained_and_resumed(make: MakeTrainer) -> None:
    whole = require_exact_resume(lambda **changes: make(GrowingHead, shards=2, **changes))
    weights = [whole["model"][f"backbone.head.blocks.{i}.weight"] for i in range(3)]
    assert [len(weight) for weight in weights] == [4, 3, 3]
    assert whole["model"]["backbone.head.eta"].item() != 1
    last = whole["matrix"]["class_il"][-1]
    assert min(last) > 1.5 / 10


@pytest.mark.parametrize("reset", [True, False], ids=["reset", "kept"])
@pytest.mark.parametrize("shards", [1, 2])
def test_what_grows_is_trained_and_resumed(make: MakeTrainer, reset: bool, shards: int) -> None:
    def trainer(**changes: Any) -> Trainer:
        return make(Blocks, reset_optimizer=reset, shards=shards, **changes)

    whole = require_exact_resume(trainer)
    heads = {name: value for name, value in whole["model"].items() if name.startswith("heads")}
    assert len(heads) == 6
    fresh = trainer()
    fresh._hooks.grow_to(2)
    for name, value in fresh.method.state_dict().items():
        if name in heads:
            assert not torch.equal(value, heads[name]), f"{name} was not trained"
    groups = whole["optimizer"]["param_groups"]
    assert len(groups) == (1 if reset else 3)
    assert whole["matrix"]["class_il"][2][2] > 0.5, "the last task's block was not learned"


def test_reductions_that_fix_the_parameters_are_refused_where_they_grow(
    make: MakeTrainer,
) -> None:
    with pytest.raises(UserError, match=r"Blocks grows with the tasks, and training\.exact=false"):
        make(Blocks, shards=2, exact=False)
    assert make(Blocks, shards=1, exact=False).fit()["status"] == "finished"


def test_a_resumed_run_starts_by_telling_the_same(make: MakeTrainer) -> None:
    saved, told = Saved(), []
    make(Blocks, checkpoints=saved).fit()
    for content in (None, saved.states[-2]):
        listener = Listener()
        trainer = make(Blocks, recorders=[listener])
        if content is not None:
            trainer.load_state_dict(torch.load(io.BytesIO(content), weights_only=True))
        trainer.fit()
        told.append(listener.of(RunStart)[0].n_parameters)
    assert told[0] == told[1], "those of the first task, as results and report show them"


class Groups(FineTuning):
    def parameter_groups(self, phase: Phase) -> list[dict[str, Any]]:
        head = list(self.backbone.head.parameters())
        rest = [p for p in self.trainable() if all(p is not q for q in head)]
        return [{"params": rest, "lr": 0.0}, {"params": head}]


def test_parameter_groups_have_options_of_their_own(make: MakeTrainer) -> None:
    trainer = make(Groups)
    before = {name: value.clone() for name, value in trainer.method.state_dict().items()}
    trainer.fit()
    for name, value in trainer.method.state_dict().items():
        assert torch.equal(value, before[name]) == ("head" not in name)


class Drawing(FineTuning):
    """Draws in every hook, and lets the draws act on training."""

    noise: Tensor

    def __init__(self, backbone: Any) -> None:
        super().__init__(backbone)
        self.register_buffer("noise", torch.zeros(10))

    def before_task(self, data: Data) -> None:
        self.noise += torch.randn(10) * sum(len(batch) for batch in data(100))

    def loss(self, batch: Batch, *replay: Batch) -> Loss:
        return batch.cross_entropy(self(batch.x) + 1e-3 * self.noise)

    def after_backward(self, references: Tensor | None) -> None:
        for p in self.trainable():
            assert p.grad is not None
            p.grad += 1e-3 * torch.randn_like(p)

    def after_step(self, rows: dict[str, Tensor], sums: dict[str, Tensor]) -> None:
        self.noise += 1e-3 * torch.randn(10)

    def after_task(self, data: Data, memory: Memory) -> None:
        self.noise += torch.randn(10)


@pytest.mark.parametrize("shards", [1, 2])
def test_hooks_draw_the_same_after_a_resume(make: MakeTrainer, shards: int) -> None:
    require_exact_resume(lambda **changes: make(Drawing, shards=shards, **changes))


class Counting(Method):
    """Takes no step on every third batch."""

    replays = 1
    steps: Tensor

    def __init__(self, backbone: Any) -> None:
        super().__init__(backbone)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def loss(self, batch: Batch, *replay: Batch) -> Loss:
        if int(self.steps) % 3 == 2:
            return StepOutput(None)
        return batch.cross_entropy(self(batch.x))

    def after_step(self, rows: dict[str, Tensor], sums: dict[str, Tensor]) -> None:
        self.steps += 1


@pytest.mark.parametrize("shards", [1, 2])
def test_without_a_loss_there_is_no_update_and_everything_else_goes_on(
    make: MakeTrainer, shards: int
) -> None:
    def schedule(optimizer: Any) -> Any:
        return torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.99)

    trainer = make(Counting, shards=shards, scheduler=schedule, scheduler_per="step")
    trainer.fit()
    assert int(trainer.method.steps) == trainer.position.global_step == 90
    assert trainer.state.buffer is not None
    assert trainer.state.buffer.seen == 898  # an epoch's last batch has eight
    assert trainer.state.scheduler is not None
    assert trainer.state.scheduler.last_epoch == 20
    require_exact_resume(lambda **changes: make(Counting, shards=shards, **changes))


class Never(Method):
    def loss(self, batch: Batch, *replay: Batch) -> Loss:
        return StepOutput(None)


@pytest.mark.parametrize("frozen", [False, True])
def test_a_method_may_never_have_a_loss(make: MakeTrainer, frozen: bool) -> None:
    trainer = make(Never)
    if frozen:
        trainer = make(lambda backbone: Never(backbone.requires_grad_(False)))
    before = {name: value.clone() for name, value in trainer.method.state_dict().items()}
    assert trainer.fit()["status"] == "finished"
    assert same(dict(trainer.method.state_dict()), before)


class Detached(Method):
    def loss(self, batch: Batch, *replay: Batch) -> Loss:
        return batch.cross_entropy(self(batch.x)).detach()


def test_a_loss_that_reaches_no_parameter_is_one_sentence(make: MakeTrainer) -> None:
    with pytest.raises(UserError, match=r"the loss of Detached depends on no parameter"):
        make(Detached).fit()


def require_logits_of_the_network(trainer: Trainer) -> None:
    """The buffer holds what the trained network says of its examples."""
    assert trainer.state.buffer is not None
    held = trainer.state.buffer.contents()
    trainer.method.eval()
    expected = trainer.method(held["raw"].float() / 255)
    torch.testing.assert_close(held["logits"], expected.detach())


class Late(DERpp):
    """DER++ that stores at the end of each task."""

    store_at = "task"

    def __init__(self, backbone: Any) -> None:
        super().__init__(backbone, 0.5, 0.5)


def test_stored_fields_of_a_task_s_end_are_those_of_the_trained_network(make: MakeTrainer) -> None:
    trainer = make(Late, stop_after=1)
    trainer.fit()
    require_logits_of_the_network(trainer)
    require_exact_resume(lambda **changes: make(Late, **changes))


class Rewriting(DERpp):
    """Renews the logits in the memory at each task's end."""

    def __init__(self, backbone: Any) -> None:
        super().__init__(backbone, 0.5, 0.5)

    @torch.no_grad()
    def after_task(self, data: Data, memory: Memory) -> None:
        self.eval()
        first = 0
        for batch in memory.batches(7):
            slots = torch.arange(first, first + len(batch))
            memory.rewrite(slots, {"logits": self(batch.x)})
            first += len(batch)
        assert first == len(memory) == 50


def test_the_memory_is_read_and_rewritten_between_tasks(make: MakeTrainer) -> None:
    trainer = make(Rewriting)
    trainer.fit()
    require_logits_of_the_network(trainer)
    require_exact_resume(lambda **changes: make(Rewriting, **changes))


@pytest.mark.parametrize(
    ("slots", "fields", "message"),
    [([0], {"other": torch.zeros(1)}, "holds no other"), ([50], {}, "holds 50 examples")],
)
def test_a_rewrite_of_what_is_not_there(
    make: MakeTrainer, slots: list[int], fields: dict[str, Tensor], message: str
) -> None:
    trainer = make(ER, stop_after=1)
    trainer.fit()
    with pytest.raises(ValueError, match=message):
        trainer._hooks.memory.rewrite(torch.tensor(slots), fields)
    with pytest.raises(ValueError, match="has no memory"):
        make(FineTuning)._hooks.memory.rewrite(torch.tensor([0]), {})
