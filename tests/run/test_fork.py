"""What a fork carries over of a checkpoint: each row of the table in docs/forks.md."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from kit import assert_same
from tiers import cases

import perdure
from perdure.checkpoint.core.encode import plain
from perdure.checkpoint.core.format import read
from perdure.checkpoint.core.ledger import newest
from perdure.config.compose import compose, register
from perdure.config.typed import typed as as_config
from perdure.datasets.batch import Batch
from perdure.errors import PreemptedError, UserError
from perdure.models.bic import BiC
from perdure.run.assemble import make_trainer, run
from perdure.run.fork import Fork
from perdure.run.preemption import StopFlag
from perdure.run.restore import restore
from perdure.run.resume import RestorePoint, plan
from perdure.training.trainer import Trainer

pytestmark = pytest.mark.process

DOCS = Path(__file__).parents[2] / "docs" / "forks.md"
QUIET = "tracking.console=off"
STEPS = 1267  # an epoch of the digits 0 and 1 in batches of 10


class After(StopFlag):
    """Asks to stop at the n-th step boundary."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.left = n

    def __call__(self) -> str | None:
        self.left -= 1
        return "a test" if self.left == 0 else None


def stopped(folder: Path, n: int, *words: str) -> Path:
    """The folder of a run that was stopped after `n` steps."""
    register()
    folder.mkdir()
    with pytest.raises(PreemptedError):
        run(compose(*words, QUIET), folder, [*words, QUIET], stop=After(n))
    return folder


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with replay that has learned two of five tasks."""
    folder = tmp_path_factory.mktemp("ended") / "run"
    perdure.train(
        "model=er", "dataset.iterations=30", "dataset.stop_after=2", "checkpoint.save=true",
        "buffer.size=100", "recipe=none", QUIET, folder=folder,
    )  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def midway(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run within the second of three epochs, with momentum and a schedule."""
    return stopped(
        tmp_path_factory.mktemp("midway") / "run", STEPS + 600, "model=sgd", "dataset.epochs=3",
        "dataset.stop_after=1", "optimizer.momentum=0.9", "scheduler=cosine", "recipe=none",
    )  # fmt: skip


@pytest.fixture(scope="module")
def by_steps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A replaying run within a task that is counted in steps; its optimizer outlives tasks."""
    return stopped(
        tmp_path_factory.mktemp("by_steps") / "run", 50, "model=er", "dataset.iterations=80",
        "training.reset_optimizer=false", "buffer.size=100", "recipe=none",
    )  # fmt: skip


def forked(folder: Path, *words: str) -> tuple[Trainer, str]:
    """A trainer that stands where the fork of the run in `folder` starts, and what is told."""
    register()
    planned = plan([f"checkpoint.load={folder}", "checkpoint.fork=true", QUIET, *words])
    config = as_config(compose(*planned.words))
    source = planned.start
    assert isinstance(source, RestorePoint)
    fork = Fork(config, source)
    trainer = make_trainer(config, network=fork.backbone_weights)
    return trainer, "\n".join(restore(trainer, source, None, fork))


def state_of(folder: Path) -> dict[str, Any]:
    entry = newest(folder / "checkpoints")
    assert entry is not None
    return read(entry.path)


def refused(sentence: str, folder: Path, *words: str) -> None:
    with pytest.raises(UserError, match=sentence):
        forked(folder, *words)


def weights(trainer: Trainer) -> dict[str, Any]:
    return dict(trainer.method.backbone.state_dict())


def assert_network(trainer: Trainer, folder: Path) -> None:
    saved = {k: v for k, v in state_of(folder)["model"].items() if k.startswith("backbone.")}
    assert_same({f"backbone.{k}": v for k, v in weights(trainer).items()}, saved)


# --- nothing changed ------------------------------------------------------------------------------


def test_a_fork_that_changes_nothing_has_the_whole_state(
    ended: Path, midway: Path, by_steps: Path
) -> None:
    for folder in (ended, midway, by_steps):
        trainer, told = forked(folder)
        now, saved = plain(trainer.state_dict()), state_of(folder)
        parts = ["model", "buffer", "position", "scheduler"]
        for part in parts if folder != ended else parts[:3]:
            assert_same(now[part], saved[part], part)
        if folder != ended:  # there the next task starts with a fresh one
            assert_same(now["optimizer"], saved["optimizer"], "optimizer")
        assert "changed at the fork" not in told


# --- the benchmark --------------------------------------------------------------------------------

BENCHMARK = [
    "dataset.class_order=random",
    "dataset.class_order=[9,8,7,6,5,4,3,2,1,0]",
    "dataset.seed=1",
    "dataset.seed=${seed} seed=1",
    "dataset.validation=0.1",
    "dataset.n_tasks=10",
    "dataset=rot-mnist",
    "scenario=permuted-pixels",
    "source=fashion-mnist",
    "transform=crop-flip-cifar10",
    "dataset.transform._target_=perdure.datasets.transforms.CropFlip",
    "debug=fast",
]


def benchmark(ended: Path, midway: Path, by_steps: Path) -> None:
    for typed in BENCHMARK:
        refused(r"^dataset\.\S+=.* \(was .*checkpoint\.other_benchmark=true", ended, *typed.split())
    other = "checkpoint.other_benchmark=true"
    refused("within task 0; another benchmark", midway, "dataset.validation=0.1", other)
    refused("domain_il; start from the weights", ended, "dataset=rot-mnist", other)
    trainer, told = forked(ended, "dataset.class_order=random", other)
    assert "another benchmark from task 2 on" in told
    mark = {"task": 2, "changed": ["dataset.class_order=random (was None)"]}
    assert trainer.state.summary()["other_benchmark"] == [mark]
    for n in (4, 10):
        trainer, _ = forked(ended, f"dataset.n_tasks={n}", other)
        assert len(trainer.state.results.counts.matrix()["class_il"]) == 2


def test_the_mark_of_another_benchmark_stays(ended: Path, tmp_path: Path) -> None:
    fork = tmp_path / "fork"
    results = perdure.train(
        f"checkpoint.load={ended}", "checkpoint.fork=true", "dataset.class_order=random",
        "checkpoint.other_benchmark=true", "dataset.stop_after=3", "checkpoint.save=true", QUIET,
        folder=fork,
    )  # fmt: skip
    assert results["other_benchmark"][0]["task"] == 2
    assert "another benchmark from task 2 on" in (fork / "report.html").read_text()
    results = perdure.train(f"checkpoint.load={fork}", "dataset.stop_after=4", QUIET)
    assert results["other_benchmark"][0]["task"] == 2
    assert "another benchmark from task 2 on" in (fork / "report.html").read_text()
    _, told = forked(fork, "dataset.stop_after=4")
    assert "another benchmark from task 2 on" in told


def test_the_same_benchmark_typed_again_is_the_same(ended: Path) -> None:
    for typed in ("dataset=seq-mnist", "dataset.n_tasks=5", "source=mnist", "dataset.seed=0"):
        _, told = forked(ended, typed)
        assert "changed at the fork" not in told


def seed(ended: Path, midway: Path, by_steps: Path) -> None:
    trainer, told = forked(ended, "seed=1")
    assert "seed=1 is of the training from here on; dataset.seed stays 0" in told
    assert (trainer.settings.seed, trainer.benchmark.streams.seed) == (1, 0)
    assert_network(trainer, ended)
    assert "some of its examples come twice" in forked(midway, "seed=1")[1]
    assert "twice" not in told


# --- how long -------------------------------------------------------------------------------------


def length(ended: Path, midway: Path, by_steps: Path) -> None:
    for size, step in ((20, 300), (7, 857), (64, 93), (20_000, 0)):
        trainer, told = forked(midway, f"dataset.batch_size={size}")
        assert (trainer.position.epoch, trainer.position.step) == (1, step)
        assert "continues in epoch 1" in told
    trainer, _ = forked(by_steps, "dataset.batch_size=500")  # 26 steps an epoch
    assert (trainer.position.epoch, trainer.position.step) == (1, 24)
    trainer, _ = forked(midway, "dataset.iterations=2000")
    assert (trainer.position.epoch, trainer.position.step) == (1, 600)
    refused(r"dataset\.epochs=1 \(was 3\)", midway, "dataset.epochs=1")
    refused(r"dataset\.iterations=40 \(was 80\)", by_steps, "dataset.iterations=40")


@pytest.mark.parametrize(
    ("change", "epoch", "rest"),
    [
        ("optimizer.lr=0.02", 3, 667 + STEPS),
        ("dataset.batch_size=64", 3, 198 - 93 + 198),
        ("dataset.epochs=2", 2, 667),
    ],
)
def test_no_epoch_is_left_out(
    midway: Path, tmp_path: Path, change: str, epoch: int, rest: int
) -> None:
    perdure.train(
        f"checkpoint.load={midway}", "checkpoint.fork=true", change, QUIET, folder=tmp_path / "fork"
    )
    rows = map(json.loads, (tmp_path / "fork" / "metrics.jsonl").read_text().splitlines())
    last = [row for row in rows if row["kind"] == "evaluation"][-1]
    assert (last["epoch"], last["global_step"]) == (epoch, STEPS + 600 + rest)


def tasks(ended: Path, midway: Path, by_steps: Path) -> None:
    refused(r"dataset\.stop_after=1: .* must be 2 or more", ended, "dataset.stop_after=1")
    _, told = forked(ended)
    assert "nothing is trained" in told
    assert "nothing is trained" not in forked(ended, "dataset.stop_after=3")[1]


# --- method and network ---------------------------------------------------------------------------


def method(ended: Path, midway: Path, by_steps: Path) -> None:
    for name in ("sgd", "derpp", "er-ace", "agem", "lwf", "si", "ewc-online"):
        trainer, told = forked(ended, f"model={name}")
        assert f"model={name}: takes over the network" in told
        assert_network(trainer, ended)
    lwf, _ = forked(ended, "model=lwf")
    assert_same(dict(lwf.method.old.state_dict()), weights(lwf))  # type: ignore[union-attr,operator]
    refused(r"model\.name=er.*within task 0; another method", midway, "model=er")
    assert "the buffer starts empty" in forked(ended, "model=derpp")[1]
    agem, _ = forked(ended, "model=agem", "buffer=reservoir")
    assert_same(plain(agem.state_dict())["buffer"], state_of(ended)["buffer"])


@pytest.mark.parametrize("name", ["derpp", "lwf", "si"])
def test_another_method_learns_from_there(ended: Path, name: str) -> None:
    results = perdure.train(
        f"checkpoint.load={ended}", "checkpoint.fork=true", f"model={name}",
        "dataset.stop_after=3", QUIET,
    )  # fmt: skip
    matrix = results["accuracy_matrix"]["task_il"]
    assert [len(row) for row in matrix] == [1, 2, 3]
    assert matrix[2][2] > 0.6


def method_options(ended: Path, midway: Path, by_steps: Path) -> None:
    folder = ended.parent / "si"
    perdure.train(
        "model=si", "dataset.iterations=5", "dataset.stop_after=1", "checkpoint.save=true", QUIET,
        folder=folder,
    )  # fmt: skip
    trainer, _ = forked(folder, "model.c=0.7")
    assert trainer.method.c == 0.7
    assert_same(plain(trainer.state_dict())["model"], state_of(folder)["model"])


def backbone(ended: Path, midway: Path, by_steps: Path) -> None:
    sentence = r"^backbone\.hidden=\[50\] \(was \[100, 100\]\): .* does not fit"
    refused(sentence, ended, "backbone.hidden=[50]")
    refused(r"backbone\._target_=", ended, "backbone=reduced-resnet18")
    refused(r"head\._target_=.*Cosine .* does not fit", ended, "head=cosine")
    grown = ("head.growing=true", "training.loss_scope=seen")
    refused(r"head\.growing=True \(was False\).*does not fit", ended, *grown)
    with pytest.raises(UserError, match=sentence):  # the weights go into it before the method does
        perdure.train(
            f"checkpoint.load={ended}", "checkpoint.fork=true", "backbone.hidden=[50]", "model=si",
            QUIET,
        )  # fmt: skip


# --- optimizer ------------------------------------------------------------------------------------


def rates(ended: Path, midway: Path, by_steps: Path) -> None:
    trainer, _ = forked(midway, "optimizer.lr=0.02", "optimizer.weight_decay=0.1")
    saved = state_of(midway)["optimizer"]["state"]
    assert_same(plain(trainer.state.optimizer.state_dict()["state"]), saved)
    (group,) = trainer.state.optimizer.param_groups
    assert group["lr"] == pytest.approx(0.02 * 0.75)  # a third of the cosine's way
    assert group["weight_decay"] == 0.1


def optimizer(ended: Path, midway: Path, by_steps: Path) -> None:
    for folder in (midway, by_steps):
        trainer, told = forked(folder, "optimizer=adam")
        assert isinstance(trainer.state.optimizer, torch.optim.Adam)
        assert not trainer.state.optimizer.state
        assert "the optimizer starts with fresh state" in told
    assert "fresh state" in forked(midway, "optimizer.nesterov=true")[1]
    trainer, told = forked(ended, "optimizer=adam")
    assert "fresh" not in told
    kept = "optimizer._target_=torch.optim.RMSprop"
    assert "fresh state" in forked(midway, kept, "~optimizer.nesterov")[1]


def schedule(ended: Path, midway: Path, by_steps: Path) -> None:
    rate = state_of(midway)["args"]["optimizer"]["lr"]
    trainer, told = forked(midway, "scheduler=none")
    assert trainer.state.optimizer.param_groups[0]["lr"] == rate
    assert "the learning rate is constant" in told
    trainer, told = forked(midway, "dataset.epochs=4")
    assert "the scheduler stands at epoch 1" in told
    assert trainer.state.optimizer.param_groups[0]["lr"] == pytest.approx(rate * 0.853553, rel=1e-4)
    trainer, told = forked(midway, "training.scheduler_per=step", "scheduler.T_max=3801")
    assert f"the scheduler stands at step {STEPS + 600}" in told
    _, told = forked(by_steps, "scheduler=cosine")
    assert "the scheduler starts afresh" in told


# --- precision and buffer -------------------------------------------------------------------------


def precision(ended: Path, midway: Path, by_steps: Path) -> None:
    trainer, told = forked(ended, "training.precision=fp16")
    assert trainer.state.scaler is not None
    assert "training.precision=fp16 (was fp32): the scale of the loss starts afresh" in told
    assert forked(ended, "training.precision=bf16")[0].state.scaler is None


def size(ended: Path, midway: Path, by_steps: Path) -> None:
    saved = state_of(ended)["buffer"]
    for n, held in ((30, 30), (250, 100)):
        trainer, told = forked(ended, f"buffer.size={n}")
        buffer = trainer.state.buffer
        assert buffer is not None
        assert (len(buffer), buffer.seen, buffer.size) == (held, saved["seen"], n)
        assert f"the buffer takes over {held} of 100 examples" in told
        examples = {bytes(x.numpy()) for x in saved["fields"]["raw"]}
        assert {bytes(x.numpy()) for x in buffer.contents()["raw"]} <= examples
    trainer, told = forked(ended, "buffer=random", "buffer.per_class=3")
    buffer = trainer.state.buffer
    assert buffer is not None
    assert (buffer.size, buffer.seen) == (30, saved["seen"])
    assert set(buffer.contents()["y"].bincount().tolist()) <= {0, 3}
    assert "buffer.per_class=3 (was " in told
    assert f"the buffer takes over {len(buffer)} of 100 examples" in told


def policy(ended: Path, midway: Path, by_steps: Path) -> None:
    trainer, told = forked(ended, "buffer=class-balanced", "buffer.size=100")
    buffer = trainer.state.buffer
    assert buffer is not None
    assert len(buffer) == 100
    assert "the buffer takes over 100 of 100 examples" in told


def mode(ended: Path, midway: Path, by_steps: Path) -> None:
    refused(
        r"training\.mode=joint \(was continual\)",
        ended,
        "training=joint",
        "dataset.stop_after=null",
    )


def sync(ended: Path, midway: Path, by_steps: Path) -> None:
    refused(r"training\.replay_sync=local", ended, "training.replay_sync=local")


def others(ended: Path, midway: Path, by_steps: Path) -> None:
    trainer, _ = forked(midway, "training.clip_norm=0.5", "training.evaluate_every=1")
    assert trainer.settings.clip_norm == 0.5
    assert_same(plain(trainer.state_dict())["optimizer"], state_of(midway)["optimizer"])


ROWS: dict[str, Callable[[Path, Path, Path], None]] = {
    "`dataset.source` `dataset.scenario` `dataset.transform` `dataset.n_tasks` "
    "`dataset.class_sizes` `dataset.initial_classes` `dataset.increment` `dataset.seed` "
    "`dataset.class_order` `dataset.validation` `dataset.noise` `dataset.imbalance`": benchmark,
    "`seed`": seed,
    "`dataset.batch_size` `dataset.epochs` `dataset.iterations`": length,
    "`dataset.stop_after`": tasks,
    "`model`": method,
    "`model.*`": method_options,
    "`backbone` `head`": backbone,
    "`optimizer.lr` `optimizer.weight_decay`": rates,
    "`optimizer`": optimizer,
    "`scheduler` `training.scheduler_per`": schedule,
    "`training.precision`": precision,
    "`buffer.size` `buffer.per_class`": size,
    "`buffer`": policy,
    "`training.mode`": mode,
    "`training.replay_sync`": sync,
    "`training.*`": others,
}


LONG = (benchmark, length, method, backbone, optimizer, schedule)
OFTEN = [row for row, check in ROWS.items() if check not in LONG]
"""Without those that train for more than some seconds."""


@pytest.mark.parametrize("row", cases(ROWS, OFTEN))
def test_the_row_of_the_table_is_so(row: str, ended: Path, midway: Path, by_steps: Path) -> None:
    ROWS[row](ended, midway, by_steps)


def test_each_row_of_the_table_is_tested() -> None:
    rows = re.findall(r"^\| (`.*?) \|", DOCS.read_text(), re.M)
    assert rows == list(ROWS)


class HaltError(Exception):
    pass


def test_within_a_later_phase_the_lengths_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """How long the phases before it took cannot be told from another batch size."""

    def halting(self: BiC, batch: Batch, *replay: Batch, loss: Any = BiC.loss) -> Any:
        if self.task.phase == "bias" and self.task.epoch == 2:
            raise HaltError
        return loss(self, batch, *replay)

    monkeypatch.setattr(BiC, "loss", halting)
    words = (
        "model=bic", "model.bias_epochs=3", "model.held_out=0.3", "buffer.size=60",
        "dataset.iterations=20", "checkpoint.save=true", "checkpoint.every=1",
        "tracking.console=off",
    )  # fmt: skip
    with pytest.raises(HaltError):
        perdure.train(*words, folder=tmp_path / "run")
    monkeypatch.undo()
    entry = newest(tmp_path / "run" / "checkpoints")
    assert entry is not None
    path = entry.path
    forking = (f"checkpoint.load={path}", "checkpoint.fork=true", "tracking.console=off")
    with pytest.raises(
        UserError, match=r"dataset\.batch_size=20.* stands within phase 1 of task 1"
    ):
        perdure.train(*forking, "dataset.batch_size=20", folder=tmp_path / "other")
    results = perdure.train(*forking, "optimizer.lr=0.02", folder=tmp_path / "alike")
    assert results["status"] == "finished"
