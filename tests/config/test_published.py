"""Published hyperparameters reach a run where the whole protocol matches, and nowhere else."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf

import perdure
from perdure.config.published import published
from perdure.config.recipe import notices
from perdure.errors import UserError

DERPP_500 = {"model.alpha": 1.0, "model.beta": 0.5, "optimizer.lr": 0.03, "buffer.batch_size": 10}
DERPP_200 = {"model.alpha": 0.2, "model.beta": 1.0, "optimizer.lr": 0.03, "buffer.batch_size": 128}
HYPERPARAMETERS = (*DERPP_500, "optimizer.weight_decay")


def values(config: DictConfig, *keys: str) -> dict[str, Any]:
    found = {key: OmegaConf.select(config, key) for key in keys or HYPERPARAMETERS}
    return {key: value for key, value in found.items() if value is not None}


def told(*overrides: str) -> list[str]:
    return notices(perdure.compose(*overrides))


# --- what applies ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "expected"), [(200, DERPP_200), (500, DERPP_500)], ids=["200", "500"]
)
def test_a_row_applies_to_its_method_benchmark_and_buffer_size(
    size: int, expected: dict[str, float]
) -> None:
    config = perdure.compose("model=derpp", f"buffer.size={size}")
    assert values(config, *expected) == expected
    assert told("model=derpp", f"buffer.size={size}") == [
        f"published setting dark-experience/seq-mnist/derpp-{size}: Buzzega et al. 2020 (NeurIPS)"
    ]


def test_a_row_applies_to_a_method_that_chooses_its_buffer() -> None:
    """The method's file has the ring of tasks that the row's protocol asks for."""
    expected = {"model.margin": 1.0, "optimizer.lr": 0.01}
    config = perdure.compose("model=gem", "buffer.size=200")
    assert values(config, *expected) == expected
    (message,) = told("model=gem", "buffer.size=200", "buffer=reservoir")
    assert "gem-200 differs: buffer._target_=perdure.buffers.reservoir.Reservoir" in message


@pytest.mark.parametrize(
    "free",
    [
        "seed=3",
        "dataset.class_order=random",
        "dataset.seed=7",
        "dataset.validation=0.1",
        "dataset.stop_after=2",
        "training.precision=bf16",
        "training.log_every=7",
        "training.evaluate_every=1",
        "training.shards=2",
        "training.loss_scope=full",
        "optimizer.lr=0.7",
        "checkpoint.save=true",
        "tracking=wandb",
    ],
)
def test_what_is_no_part_of_a_protocol_may_differ(free: str) -> None:
    assert values(perdure.compose("model=derpp", free), "model.alpha") == {"model.alpha": 1.0}


OFF_PROTOCOL = [
    "optimizer=adam",
    "optimizer._target_=torch.optim.SGD",
    "optimizer.momentum=0.9",
    "+optimizer.maximize=true",
    "backbone.hidden=[100]",
    "backbone=reduced-resnet18",
    "head=cosine",
    "head.growing=true",
    "training.loss_scope=seen",
    "scheduler=cosine",
    "buffer=class-balanced",
    "dataset.epochs=2",
    "dataset.iterations=10",
    "dataset.batch_size=32",
    "dataset.n_tasks=2",
    "training=joint",
    "training.clip_norm=1.0",
    "training.reset_optimizer=false",
    "training.scheduler_per=step",
    "source=fashion-mnist",
    "scenario=permuted-pixels",
    "transform=crop-flip-cifar10",
    "model._target_=perdure.models.der.DER",
]


@pytest.mark.parametrize("override", OFF_PROTOCOL)
def test_off_its_protocol_nothing_of_a_row_applies(override: str) -> None:
    typed = ("model=derpp", "buffer.size=200", override)
    default = values(perdure.compose(*typed, "recipe=none"))
    assert values(perdure.compose(*typed)) == default
    (notice,) = told(*typed)
    key = override.lstrip("+").partition("=")[0].replace("training=", "training.mode=")
    assert "no published setting applies: dark-experience/seq-mnist/derpp-200 differs: " in notice
    assert key.split(".")[-1] in notice
    assert notice.endswith("; the groups' own defaults are used")


def _group(override: str) -> str:
    """Two overrides of one group may contradict each other."""
    return re.split(r"[.=]", override.lstrip("+"))[0]


# (A ResNet has no `hidden`, and the last ones belong to one benchmark or method.)
ANYWHERE = [o for o in OFF_PROTOCOL[:-4] if o != "backbone.hidden=[100]"]


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    model=st.sampled_from(["derpp", "der", "er", "si", "lwf", "sgd", "agem"]),
    dataset=st.sampled_from(["seq-mnist", "perm-mnist", "rot-mnist", "seq-cifar10", "seq-fmnist"]),
    size=st.sampled_from([100, 200, 500, 5120]),
    more=st.lists(st.sampled_from([*ANYWHERE, "seed=1"]), max_size=2, unique_by=_group),
)
def test_no_published_value_is_active_off_its_protocol(
    model: str, dataset: str, size: int, more: list[str]
) -> None:
    """A value that is not the group's own default belongs to a row whose protocol matches."""
    typed = (f"model={model}", f"dataset={dataset}", f"buffer.size={size}", *more)
    now, default = perdure.compose(*typed), perdure.compose(*typed, "recipe=none")
    keys = ["model", "optimizer", "buffer.batch_size"]
    if [OmegaConf.select(now, key) for key in keys] == [
        OmegaConf.select(default, key) for key in keys
    ]:
        return
    chosen = published.choose(now).setting
    assert chosen is not None
    assert (chosen.row.method, chosen.benchmark.dataset) == (model, dataset)
    assert chosen.row.buffer in (None, size)
    if chosen.row.buffer is None:
        more = [word for word in more if not word.startswith("buffer")]  # it has no effect
    assert set(more) <= {"seed=1"} | _as_published(chosen.protocol)


def _as_published(protocol: Any) -> set[str]:
    """Overrides that say what the protocol says anyway."""
    typed = {"training.mode": "training"}  # the group is what people choose
    return {f"{typed.get(key, key)}={value}" for key, value in protocol.items()}


def test_there_is_no_nearest_buffer_size() -> None:
    config = perdure.compose("model=derpp", "buffer.size=210")
    assert values(config, "model.alpha") == {"model.alpha": 0.5}
    assert told("model=derpp", "buffer.size=210") == [
        "no published setting applies: buffer.size=210 was not published for derpp on seq-mnist "
        "(200, 500, 5120 were); the groups' own defaults are used"
    ]


def test_a_typed_value_wins_and_leaves_the_rest_of_the_row() -> None:
    typed = ("model=derpp", "buffer.size=200", "model.alpha=0.9", "buffer.batch_size=7")
    expected = {**DERPP_200, "model.alpha": 0.9, "buffer.batch_size": 7}
    assert values(perdure.compose(*typed), *expected) == expected
    setting, *departures = told(*typed)
    assert setting.startswith("published setting dark-experience/seq-mnist/derpp-200: ")
    name = "dark-experience/seq-mnist/derpp-200"
    assert departures == [
        f"model.alpha=0.9 departs from {name} (published: 0.2)",
        f"buffer.batch_size=7 departs from {name} (published: 128)",
    ]


def test_recipe_none_looks_for_nothing() -> None:
    assert told("model=derpp", "recipe=none") == []
    config = perdure.compose("model=derpp", "recipe=none")
    assert values(config, "model.alpha") == {"model.alpha": 0.5}


def test_a_pair_that_nobody_published_keeps_the_defaults() -> None:
    assert told("model=er-ace", "dataset=rot-mnist") == [
        "no published setting applies: none is known for er-ace on rot-mnist; the groups' own "
        "defaults are used"
    ]


def test_a_paper_named_must_apply() -> None:
    config = perdure.compose("model=derpp", "recipe=dark-experience")
    assert values(config, "model.alpha") == {"model.alpha": 1.0}
    with pytest.raises(UserError, match=r"^recipe=dark-experience: does not apply: .*epochs=2"):
        told("model=derpp", "recipe=dark-experience", "dataset.epochs=2")
    with pytest.raises(UserError, match=r"no such published setting \(did you mean dark-exp"):
        told("model=derpp", "recipe=dark-experiences")


# --- exact settings -------------------------------------------------------------------------------

EXPERIMENT = "dark-experience/seq-mnist/derpp-200"


def test_an_experiment_is_its_row_under_its_protocol() -> None:
    config = perdure.compose(f"experiment={EXPERIMENT}")
    assert (config.model.name, config.dataset.name, config.buffer.size) == (
        "derpp", "seq-mnist", 200,
    )  # fmt: skip
    assert values(config, *DERPP_200) == DERPP_200
    assert told(f"experiment={EXPERIMENT}") == [
        f"published setting {EXPERIMENT}: Buzzega et al. 2020 (NeurIPS)"
    ]


@pytest.mark.parametrize("override", [o for o in OFF_PROTOCOL if o != "optimizer=adam"])
def test_each_departure_from_an_experiment_is_told(override: str) -> None:
    first, *departures = told(f"experiment={EXPERIMENT}", override)
    assert first.startswith(f"published setting {EXPERIMENT}")
    assert departures
    assert all(f" departs from {EXPERIMENT} (published: " in line for line in departures)


def test_the_values_of_an_experiment_do_not_reach_another_optimizer() -> None:
    typed = (f"experiment={EXPERIMENT}", "optimizer=adam")
    config = perdure.compose(*typed)
    assert (config.optimizer.lr, config.model.alpha) == (0.001, 0.2)
    assert told(*typed)[1:] == [
        f"optimizer._target_=torch.optim.Adam departs from {EXPERIMENT} (published: optimizer=sgd)"
    ]


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("model=er", f"model=er with experiment={EXPERIMENT}: must be derpp"),
        ("dataset=perm-mnist", f"dataset=perm-mnist with experiment={EXPERIMENT}: must be seq-"),
        (
            "buffer.size=500",
            f"buffer.size=500 with experiment={EXPERIMENT}: must be 200; for 500, choose "
            "experiment=dark-experience/seq-mnist/derpp-500",
        ),
    ],
    ids=["model", "dataset", "size"],
)
def test_an_experiment_is_not_mixed_with_another(override: str, sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        told(f"experiment={EXPERIMENT}", override)
    assert str(caught.value).startswith(sentence)


# --- tables of a user -----------------------------------------------------------------------------

TABLE = """
source: Us 2026
benchmarks:
  seq-mnist:
    protocol: {backbone: mlp, optimizer: adam, scheduler: none, buffer: reservoir,
               dataset.n_tasks: 5, dataset.epochs: 1, dataset.batch_size: 10}
    rows:
      - {method: derpp, buffer: 77, values: {model.alpha: 0.7, optimizer.lr: 0.002}}
      - {method: mine, buffer: 77, values: {model.alpha: 0.7}}
      - {method: er, per_class: 20, values: {optimizer.lr: 0.003}, protocol: {buffer: random}}
      - {method: er, buffer: 500, values: {optimizer.lr: 0.004}, protocol: {buffer: random}}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "published").mkdir()
    (tmp_path / "published" / "ours.yaml").write_text(TABLE)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.yaml").write_text(
        "_target_: perdure.models.derpp.DERpp\nname: mine\nalpha: 0.4\nbeta: 0.5\n"
    )
    return tmp_path


def test_a_table_in_a_folder_of_the_user_works_alike(folder: Path) -> None:
    search = f"hydra.searchpath=[file://{folder}]"
    by_itself = perdure.compose(search, "model=derpp", "optimizer=adam", "buffer.size=77")
    chosen = perdure.compose(search, "experiment=ours/seq-mnist/derpp-77")
    for config in (by_itself, chosen):
        assert values(config, "model.alpha", "optimizer.lr") == {
            "model.alpha": 0.7, "optimizer.lr": 0.002,
        }  # fmt: skip
    assert "ours/seq-mnist/derpp-77" not in published.settings or published.folders[0] == folder
    perdure.compose("model=derpp")
    assert "ours/seq-mnist/derpp-77" not in published.settings


@pytest.mark.parametrize(
    ("size", "lr"), [("buffer.per_class=20", 0.003), ("buffer.size=500", 0.004)]
)
def test_a_row_of_a_quota_applies_to_that_quota(folder: Path, size: str, lr: float) -> None:
    """The size that the file gives beside a quota does not count."""
    search = f"hydra.searchpath=[file://{folder}]"
    config = perdure.compose(search, "model=er", "buffer=random", "optimizer=adam", size)
    assert config.optimizer.lr == lr
    other = perdure.compose(
        search, "model=er", "buffer=random", "optimizer=adam", "buffer.per_class=21"
    )
    assert notices(other)[0].startswith(
        "no published setting applies: buffer.per_class=21 was not published for er on seq-mnist"
    )


def test_a_value_that_its_file_fixes_is_told(folder: Path) -> None:
    search = f"hydra.searchpath=[file://{folder}]"
    typed = (search, "model=mine", "optimizer=adam", "buffer.size=77")
    config = perdure.compose(*typed)
    assert notices(config)[1:] == [
        "model.alpha=0.4 is fixed in the group's file, so the published 0.7 does not apply; write "
        "`alpha: ${published:0.4}` there (model)"
    ]


@pytest.mark.parametrize(
    ("written", "same", "other"),
    [
        ("[2, 1, 1, 1, 1]", "[2,1,1,1,1]", "[1,1,1,1,1]"),
        ("{first: 2, rest: 1}", "{first: 2, rest: 1}", "2"),
    ],
    ids=["list", "first-rest"],
)
def test_epochs_of_each_task_are_compared_as_values(
    folder: Path, written: str, same: str, other: str
) -> None:
    path = folder / "published" / "ours.yaml"
    path.write_text(TABLE.replace("dataset.epochs: 1", f"dataset.epochs: {written}"))
    typed = ("model=derpp", "optimizer=adam", "buffer.size=77")
    search = f"hydra.searchpath=[file://{folder}]"
    alphas = [
        perdure.compose(search, *typed, f"dataset.epochs={epochs}").model.alpha
        for epochs in (same, other)
    ]
    assert alphas[0] == 0.7 != alphas[1]
