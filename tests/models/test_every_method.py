"""What every method of conf/model must do; a new one is covered when its files are there."""

from __future__ import annotations

import importlib
import io
import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from kit import Listener
from omegaconf import OmegaConf

from perdure.config.build import locate
from perdure.config.folder import options
from perdure.config.schema import Config, Mode, TrainingConfig
from perdure.config.typed import typed
from perdure.datasets.arrays import Arrays
from perdure.datasets.scenarios import ClassIncremental, PermutedPixels, Scenario
from perdure.models.addon import AddOn
from perdure.models.base import Method
from perdure.run.api import compose
from perdure.run.assemble import make_buffer, make_method, settings
from perdure.tracking import events
from perdure.training.optim import SGD, OptimizerFactory
from perdure.training.recording import Recording
from perdure.training.state import Position, SaveContext, SavedCheckpoint
from perdure.training.trainer import Trainer

ROOT = Path(__file__).parents[2]
NAMES = sorted(path.stem for path in (ROOT / "conf" / "model").glob("*.yaml"))
SCENARIOS = {"class-incremental": ClassIncremental, "domain-incremental": PermutedPixels}
STEPS = 8

every_method = pytest.mark.parametrize("name", NAMES)


def node(name: str) -> dict[str, Any]:
    loaded = OmegaConf.load(ROOT / "conf" / "model" / f"{name}.yaml")
    return cast("dict[str, Any]", OmegaConf.to_container(loaded, resolve=False))


def method_class(name: str) -> type[Method]:
    return cast("type[Method]", locate(node(name)["_target_"], "model"))


PAIRS = [(name, kind) for name in NAMES for kind in method_class(name).scenarios]
every_pair = pytest.mark.parametrize(("name", "kind"), PAIRS, ids=lambda v: str(v))


class Keep:
    """Checkpoints in memory: plain bytes, at chosen steps and at the ends of tasks."""

    def __init__(self, *steps: int) -> None:
        self.steps = steps
        self.files: dict[str, bytes] = {}

    def step_due(self, position: Position) -> bool:
        return position.global_step in self.steps

    def time_due(self) -> bool:
        return False

    def wants_epochs(self) -> bool:
        return False

    def save(self, state: dict[str, Any], context: SaveContext) -> None:
        file, ended = io.BytesIO(), context.ended
        torch.save(state, file)
        name = f"step {context.position.global_step}" if ended is None else f"task {ended}"
        self.files[name] = file.getvalue()

    def take_saved(self) -> list[SavedCheckpoint]:
        return []

    def wait(self) -> None: ...

    def finish(self) -> None: ...


@pytest.fixture(scope="module")
def config_of() -> Any:
    """The configuration that the command line would compose for a method, composed once."""
    composed: dict[str, Config] = {}

    def get(name: str) -> Config:
        if name not in composed:
            small = ("backbone=mlp", "backbone.hidden=[16]", "buffer.size=25", "threads=1")
            steps = (f"dataset.iterations={STEPS}", "training.log_every=1")
            composed[name] = typed(compose(f"model={name}", *small, *steps))
        return composed[name]

    return get


def make_trainer(config: Config, benchmark: Scenario, **more: Any) -> Trainer:
    method = make_method(config, benchmark, torch.device("cpu"))
    return Trainer(
        method,
        benchmark,
        settings(config),
        OptimizerFactory(lambda p: SGD(p, lr=0.01, momentum=0.0 if method.plain_sgd else 0.5)),
        make_buffer(config, benchmark),
        recording=Recording(**more),
    )


def remains(trainer: Trainer) -> dict[str, Any]:
    """What must be equal in the end, without clock values."""
    state = trainer.state_dict()
    held = {key: state[key] for key in ("model", "optimizer", "buffer", "position")}
    return {**held, "measured": state["results"]["measured"]}


def differing(a: Any, b: Any, where: str = "") -> list[str]:
    """Where two nested states differ by a bit."""
    if isinstance(a, torch.Tensor):
        return [] if torch.equal(a, b) else [where]
    if isinstance(a, dict):
        keys = [] if a.keys() == b.keys() else [where]
        return keys + [
            d for k in a.keys() & b.keys() for d in differing(a[k], b[k], f"{where}/{k}")
        ]
    return [] if a == b else [where]


@every_pair
def test_trains_on_one_task_after_another(
    name: str, kind: str, tiny: Arrays, config_of: Any
) -> None:
    """Real digits, the real trainer: finite losses, every weight changes in every task."""
    listener, keep = Listener(), Keep()
    benchmark = SCENARIOS[kind](tiny, 2)
    trainer = make_trainer(config_of(name), benchmark, recorders=[listener], checkpoints=keep)
    weights = [{name: p.detach().clone() for name, p in trainer.method.named_parameters()}]
    summary = trainer.fit()
    losses = [e.loss for e in listener.of(events.StepLog)]
    assert len(losses) == summary["global_step"] >= 2 * STEPS
    trained = {name for name, p in trainer.method.named_parameters() if p.requires_grad}
    # One that trains nothing (SLDA) has no loss; one may leave out a step with an empty memory.
    taken = [loss for loss in losses if loss is not None]
    assert len(taken) >= len(losses) - 1 if trained else not taken
    assert all(loss == loss and abs(loss) < 100 for loss in taken)
    for task in ("task 0", "task 1"):
        state = torch.load(io.BytesIO(keep.files[task]), weights_only=True)["model"]
        weights.append({name: state[name] for name in trained & state.keys()})
    for before, after in itertools.pairwise(weights):
        # What belongs to an earlier task may be fixed, as LUCIR's weights of old classes.
        names = {name for name in before.keys() & after.keys() if ".blocks." not in name}
        assert bool(names) == bool(trained)
        assert not any(torch.equal(before[name], after[name]) for name in names)
    assert all(len(matrix) == 2 for matrix in summary["accuracy_matrix"].values())


@every_pair
def test_resumes_to_the_bit_from_any_saved_state(
    name: str, kind: str, tiny: Arrays, config_of: Any
) -> None:
    """Saved in the first task, between the tasks and in the second; loaded into fresh objects."""
    config, benchmark, listener = config_of(name), SCENARIOS[kind](tiny, 2), Listener()
    straight = make_trainer(config, benchmark, recorders=[listener])
    straight.fit()
    expected = remains(straight)
    second = listener.of(events.TaskEnd)[0].global_step + 5  # phases of its own may add steps
    keep = Keep(3, second)
    make_trainer(config, benchmark, checkpoints=keep).fit()
    assert list(keep.files) == ["step 3", "task 0", f"step {second}", "task 1"]
    for saved, file in keep.files.items():
        torch.manual_seed(99)
        resumed = make_trainer(config, benchmark)
        with torch.no_grad():
            for tensor in resumed.method.state_dict().values():
                tensor.zero_()
        resumed.load_state_dict(torch.load(io.BytesIO(file), weights_only=True))
        resumed.fit()
        assert differing(expected, remains(resumed)) == [], f"from {saved}"


@every_method
def test_the_config_says_what_the_class_says(name: str, tiny: Arrays, config_of: Any) -> None:
    kind, options = method_class(name), node(name)
    assert options["name"] == name
    assert options["_target_"].rpartition(".")[0] == f"perdure.models.{name.replace('-', '_')}"
    assert set(kind.scenarios) <= set(SCENARIOS)
    assert kind.scenarios
    assert kind.store_at in ("step", "task")


@pytest.mark.parametrize("name", [name for name in NAMES if method_class(name).joint])
def test_trains_jointly_where_that_makes_sense(name: str, tiny: Arrays, config_of: Any) -> None:
    config = replace(config_of(name), training=TrainingConfig(mode=Mode.joint))
    trainer = make_trainer(config, ClassIncremental(tiny, 2))
    assert trainer.fit()["global_step"] == STEPS


def test_every_method_has_its_option_and_every_option_its_method() -> None:
    """Modules without a class that has a loss are shared by several methods."""
    with_loss, addons = set(), set()
    for path in (ROOT / "src" / "perdure" / "models").glob("*.py"):
        module = importlib.import_module(f"perdure.models.{path.stem}")
        kinds = [k for k in vars(module).values() if isinstance(k, type) and issubclass(k, Method)]
        own = [k for k in kinds if k.__module__ == module.__name__ and k.defines("loss")]
        if any(issubclass(k, AddOn) and k is not AddOn for k in own):
            addons.add(path.stem)
        elif own and AddOn not in own:
            with_loss.add(path.stem)
    assert with_loss == {name.replace("-", "_") for name in NAMES}
    assert addons == set(options("addon")) - {"none"}
