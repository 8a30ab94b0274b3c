"""What of a stored configuration reaches a run: values of known groups, and no choice of code."""

from __future__ import annotations

import copy
import shlex
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from perdure.checkpoint.core.migrate import migrated
from perdure.config.build import build
from perdure.config.compose import compose
from perdure.config.overrides import Arguments, quoted
from perdure.config.stored import StoredConfig
from perdure.config.trust import classes_to_allow, named_classes, refuse_locations
from perdure.errors import UserError
from perdure.run.commands import command_to_resume

CLASSES = "mylab_models.py"


def plain(*overrides: str) -> dict[str, Any]:
    return copy.deepcopy(_composed(*overrides))


@cache
def _composed(*overrides: str) -> dict[str, Any]:
    args: Any = OmegaConf.to_container(
        compose("timestamp=20261122-081146", *overrides), resolve=True, enum_to_str=True
    )
    return dict(args)


def state(*overrides: str, **changed: Any) -> dict[str, Any]:
    """A checkpoint's part that tells its configuration; `changed`: dotted keys as a__b."""
    args = plain(*overrides)
    for key, value in changed.items():
        *path, name = key.split("__")
        node = args
        for part in path:
            node = node[part]
        node[name] = value
    return {"args": args, "overrides": list(overrides)}


def taken(content: Mapping[str, Any], *typed: str) -> list[str]:
    return StoredConfig(content, "old.pt").overrides(Arguments(typed))[0]


def resumed(content: Mapping[str, Any], *typed: str) -> dict[str, Any]:
    """The configuration that a resume composes."""
    return plain(*taken(content, *typed), *typed)


def test_options_and_values_come_back() -> None:
    typed = ("model=derpp", "buffer=class-balanced", "optimizer.lr=0.3", "seed=7", "threads=2")
    content = state(*typed, "training.log_every=7")
    assert resumed(content) == content["args"]


def test_the_parts_of_a_benchmark_that_were_typed_come_back() -> None:
    typed = ("source=fashion-mnist", "dataset=perm-mnist", "scenario=rotated")
    content = state(*typed, "transform=crop-flip-cifar10", "dataset.transform.padding=2")
    assert resumed(content) == content["args"]
    assert taken(content)[:4] == [*typed, "transform=crop-flip-cifar10"]


def test_a_part_that_only_a_folder_of_the_run_s_had_is_refused(tmp_path: Path) -> None:
    text = "# @package dataset.source\n_target_: mylab.data.Faces\n"
    conf = config_folder(tmp_path, "source", text)
    content = with_part("dataset.source", {"_target_": "mylab.data.Faces"})
    with pytest.raises(UserError, match=r"for the group dataset\.source "):
        taken(content)
    assert taken(content, f"--config-dir={conf}")
    content["overrides"].append("source=mine")
    with pytest.raises(UserError, match="source=mine: there is no such source"):
        taken(content)
    assert "source=mine" in taken(content, f"--config-dir={conf}")


def test_a_default_that_is_another_today_does_not_change_the_run() -> None:
    content = state("model=er", optimizer__momentum=0.9, seed=3, dataset__seed=3)
    assert "++optimizer.momentum=0.9" in taken(content)
    assert resumed(content) == content["args"]


def test_a_file_from_before_there_were_heads_is_of_the_same_run() -> None:
    content = state("model=er", "optimizer.lr=0.3")
    whole = copy.deepcopy(content["args"])
    del content["args"]["head"], content["args"]["training"]["loss_scope"]
    before = copy.deepcopy(content)
    assert migrated(content)["args"] == whole
    assert content == before
    assert resumed(migrated(content)) == whole


def test_the_head_comes_back() -> None:
    content = state("head=cosine", "head.growing=true", "training.loss_scope=seen")
    assert resumed(content) == content["args"]


def test_what_is_typed_wins() -> None:
    content = state("model=er", "optimizer.lr=0.3")
    assert not any("optimizer.lr" in word for word in taken(content, "optimizer.lr=0.5"))
    assert resumed(content, "optimizer.lr=0.5")["optimizer"]["lr"] == 0.5


@pytest.mark.parametrize(
    "typed",
    ["dataset.epochs=3", "buffer.size=200", "buffer=class-balanced", "optimizer.momentum=0.9"],
)
def test_a_fork_off_the_protocol_keeps_what_a_published_row_gave(typed: str) -> None:
    content = state("model=derpp")
    now = resumed(content, typed)
    for group in ("model", "optimizer", "buffer"):
        for key in ("alpha", "beta", "lr"):
            assert now[group].get(key) == content["args"][group].get(key)
    assert now["model"]["alpha"] == 1.0


def test_a_row_does_not_come_back_where_none_applied() -> None:
    content = state("model=derpp", "dataset.epochs=3")
    assert content["args"]["model"]["alpha"] == 0.5
    assert resumed(content, "dataset.epochs=1")["model"]["alpha"] == 0.5


def test_another_optimizer_does_not_get_the_published_rate() -> None:
    content = state("model=er")
    assert content["args"]["optimizer"]["lr"] == 0.1
    assert resumed(content, "optimizer=adam")["optimizer"]["lr"] == 0.001


def test_options_that_were_taken_away_stay_away() -> None:
    typed = ("optimizer._target_=torch.optim.RMSprop", "~optimizer.nesterov")
    content = state(*typed)
    assert "nesterov" not in resumed(content)["optimizer"]


def test_an_interpolation_that_was_typed_is_the_value_it_had() -> None:
    content = state("model=er", "buffer.batch_size=${dataset.batch_size}")
    assert "++buffer.batch_size=10" in taken(content)


def test_what_is_not_taken_is_reported() -> None:
    content = state("model=er", "checkpoint.save=true", "data.root=x", "optimizer.lr=0.3")
    content["overrides"] += ["tracking=wandb", "checkpoint.resume=auto", "hydra.run.dir=/tmp/x"]
    stored = StoredConfig(content, "old.pt")
    assert stored.not_taken({"data.root"}) == ("checkpoint.save=true", "tracking=wandb")
    assert stored.not_taken({"data.root", "checkpoint.save", "tracking"}) == ()
    content["overrides"] = ["model=er", "debug=fast", "local=cluster"]
    assert StoredConfig(content, "old.pt").not_taken(()) == ("debug=fast", "local=cluster")


# --- forks ----------------------------------------------------------------------------------------


def forked(content: Mapping[str, Any], *typed: str) -> dict[str, Any]:
    """The configuration that a fork composes."""
    words = StoredConfig(content, "old.pt").overrides(Arguments(typed), fork=True)[0]
    return plain(*words, *typed)


def test_a_benchmark_that_followed_the_seed_stays_on_a_fork() -> None:
    for more in ((), ("dataset=perm-mnist",)):
        content = state("model=er", "seed=3", *more)
        config = forked(content, "seed=4")
        assert (config["seed"], config["dataset"]["seed"]) == (4, 3)
    assert forked(content, "seed=4", "dataset.seed=5")["dataset"]["seed"] == 5


def test_values_of_an_option_do_not_reach_another_one_on_a_fork() -> None:
    content = state(
        "model=derpp", "model.alpha=0.3", "optimizer.momentum=0.9", "~optimizer.nesterov",
        "dataset=perm-mnist", "dataset.epochs=2",
    )  # fmt: skip
    assert set(forked(content, "model=er")["model"]) == {"_target_", "name"}
    assert "momentum" not in forked(content, "optimizer=adam")["optimizer"]
    words = StoredConfig(content, "old.pt").overrides(
        Arguments(("optimizer._target_=torch.optim.RMSprop",)), fork=True
    )[0]
    assert not [word for word in words if "optimizer" in word]
    assert forked(content, "dataset=seq-mnist")["dataset"]["epochs"] == 1
    assert forked(content, "scenario=rotated")["dataset"]["epochs"] == 2
    # The same option again is no other one.
    same = forked(content, "model=derpp", "optimizer=sgd")
    assert (same["model"]["alpha"], same["optimizer"]["momentum"]) == (0.3, 0.9)


def test_what_follows_another_key_follows_it_on_a_fork() -> None:
    content = state("scheduler=cosine", "dataset.epochs=3")
    assert forked(content, "dataset.epochs=5")["scheduler"]["T_max"] is None
    content = state("scheduler=cosine", "dataset.epochs=3", "scheduler.T_max=4")
    assert forked(content, "dataset.epochs=5")["scheduler"]["T_max"] == 4


# --- what is never taken --------------------------------------------------------------------------

NEVER = [
    "hydra.run.dir=/tmp/evil",
    "hydra.job.env_set.X=1",
    "+hydra.job.env_set.GIT_EXTERNAL_DIFF=evil",
    "hydra.sweep.dir=/tmp/evil",
    "hydra.searchpath=[file:///tmp/evil]",
    "hydra/job_logging=evil",
    "hydra/launcher=local",
    "hydra.mode=MULTIRUN",
    "hydra.output_subdir=../evil",
    "tracking=wandb",
    "++tracking.wandb.entity=evil",
    "tracking.console=off",
    "data.root=/etc",
    "output_root=/tmp/evil",
    "timestamp=../../evil",
    "checkpoint.save=true",
    "checkpoint.name=../evil",
    "checkpoint.load=/etc/passwd",
    "checkpoint.allow=[os.system]",
    "checkpoint.keep=1",
    "--config-dir=/tmp/evil",
    "--multirun",
    "-m",
    "model@hydra.job=er",
    "model@dataset=er",
    "model=../../../tmp/evil",
    "model=/tmp/evil",
    "experiment=../evil",
    "search=derpp-seq-mnist",
    "debug=fast",
    "local=default",
    "evil=1",
    "+evil.key=1",
    "seed=choice(1,2)",
    "model=er,sgd",
    "optimizer.lr=interval(0,1)",
    "${oc.env:HOME}=1",
    "model=${oc.env:HOME}",
    "not an override",
    "=",
    "",
]


@pytest.mark.parametrize("override", NEVER)
def test_an_override_that_no_file_may_set_is_not_taken(override: str) -> None:
    content = state("model=er")
    content["overrides"].append(override)
    assert taken(content) == ["model=er"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("hydra", {"run": {"dir": "/tmp/evil"}}),
        ("output_root", "/tmp/evil"),
        ("data", {"root": "/etc"}),
        ("tracking", {"wandb": {"entity": "evil"}}),
        ("checkpoint", {"save": True, "name": "../evil", "load": "x", "allow": ["os.system"]}),
        ("timestamp", "../../evil"),
        ("evil", {"_target_": "os.system"}),
    ],
)
def test_a_value_that_no_file_may_set_is_not_taken(key: str, value: Any) -> None:
    assert taken(state("model=er", **{key: value})) == ["model=er"]


@pytest.mark.parametrize(
    "timestamp", ["../../evil", "/tmp/evil", ".hidden", ".tmp-1", "a\0b", "a\nb", "", "x" * 300, 7]
)
def test_a_timestamp_is_a_name(timestamp: Any) -> None:
    with pytest.raises(UserError, match="timestamp="):
        _ = StoredConfig(state(timestamp=timestamp), "old.pt").timestamp


@pytest.mark.parametrize(
    "args",
    [
        pytest.param(None, id="none"),
        pytest.param([1], id="list"),
        pytest.param({"model": {1.5: 2}}, id="float key"),
        pytest.param({"model": {"a": object()}}, id="object"),
        pytest.param({"model": {"a": [[[[]]] * 60_000, [[]] * 60_000]}}, id="many"),
        pytest.param({"seed": len}, id="function"),
    ],
)
def test_what_is_no_configuration_is_refused(args: Any) -> None:
    with pytest.raises(UserError, match="it holds no configuration of a run"):
        StoredConfig({"args": args, "overrides": []}, "old.pt")


def test_a_configuration_nested_without_end_is_refused() -> None:
    deep: Any = 1
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(UserError, match="it holds no configuration of a run"):
        StoredConfig({"args": {"model": deep}, "overrides": []}, "old.pt")


# --- classes --------------------------------------------------------------------------------------

PARTS = [
    "model", "addon", "buffer", "backbone", "optimizer", "scheduler",
    "dataset.source", "dataset.scenario", "dataset.transform",
]  # fmt: skip
EVIL = {"_target_": "os.system", "command": "touch PWNED"}
SHAPES = {
    "plain": EVIL,
    "nested": {"inner": {"deeper": EVIL}},
    "list": {"inner": [1, [EVIL]]},
    "mapping with odd keys": {"inner": {3: EVIL}},
}


def with_part(part: str, value: Mapping[str, Any]) -> dict[str, Any]:
    content = state("model=er", "scheduler=cosine")
    node = content["args"]
    for name in part.split("."):
        node = node[name]
    node.update(value)
    return content


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("part", PARTS)
def test_a_class_that_nobody_here_named_is_refused(part: str, shape: str) -> None:
    with pytest.raises(
        UserError, match=r"_target_=os\.system: named by old\.pt for the group"
    ) as e:
        taken(with_part(part, SHAPES[shape]))
    assert "checkpoint.allow=[os.system]" in str(e.value)
    assert f"for the group {part} " in str(e.value)


@pytest.mark.parametrize(
    ("part", "target"),
    [
        ("model", "perdure.io.atomic.write_json"),  # a function that writes a file
        ("model", "perdure.models.base.Batch.__init__"),
        ("model", "perdure.cli.main.Launch"),
        ("model", "perdure.backbones.mlp.MLP"),  # of another group
        ("model", "perdure.models.er.torch"),
        ("model", "perdure.models..er"),
        ("model", "torch.optim.SGD"),
        ("model", "perdurex.models.ER"),
        ("model", "os;system"),
        ("model", "er"),
        ("model", 7),
        ("model", ["os.system"]),
        ("addon", "perdure.models.addon.wrapped"),
        ("addon", "perdure.backbones.mlp.MLP"),
        ("dataset.source", "perdure.datasets.fetch.fetch"),
        ("dataset.source", "perdure.datasets.sources.mnist.Path"),
        ("backbone", "torch.nn.Linear"),
        ("head", "torch.nn.Linear"),
        ("head", "perdure.backbones.mlp.MLP"),
        ("backbone", "torch.hub.load"),
        ("optimizer", "torch.optim.functools.partial"),
        ("optimizer", "torch.load"),
        ("scheduler", "torch.optim.lr_scheduler.warn"),
    ],
)
def test_a_name_that_only_looks_like_ours_is_refused(part: str, target: Any) -> None:
    with pytest.raises(UserError, match="_target_="):
        taken(with_part(part, {"_target_": target}))


@pytest.mark.parametrize(
    ("part", "target"),
    [
        ("model", "perdure.models.sgd.FineTuning"),
        ("addon", "perdure.models.star.Star"),
        ("backbone", "perdure.backbones.resnet.ReducedResNet18"),
        ("head", "perdure.backbones.heads.Proxy"),
        ("optimizer", "torch.optim.RMSprop"),
        ("optimizer", "torch.optim.rmsprop.RMSprop"),
        ("scheduler", "torch.optim.lr_scheduler.StepLR"),
        ("dataset.transform", "perdure.datasets.transforms.CropFlip"),
    ],
)
def test_our_classes_and_torch_s_optimizers_come_back(part: str, target: str) -> None:
    assert f"++{part}._target_='{target}'" in taken(with_part(part, {"_target_": target}))


def test_a_class_counts_when_it_is_allowed_or_typed() -> None:
    content = with_part("model", {"_target_": "mylab.models.NCM"})
    assert "++model._target_='mylab.models.NCM'" in taken(
        content, "checkpoint.allow=[mylab.models.NCM]"
    )
    assert "mylab" not in " ".join(taken(content, "model._target_=mylab.models.NCM"))
    with pytest.raises(UserError, match=r"mylab\.models\.NCM"):
        taken(content, "checkpoint.allow=[mylab.models.Other]")


def config_folder(root: Path, group: str, text: str) -> Path:
    path = root / "conf" / group / "mine.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    return root / "conf"


def test_a_class_counts_when_a_configuration_folder_of_the_command_names_it(tmp_path: Path) -> None:
    conf = config_folder(tmp_path, "model", "_target_: mylab.models.NCM\nname: ncm\n")
    content = with_part("model", {"_target_": "mylab.models.NCM"})
    for typed in (f"--config-dir={conf}", f"hydra.searchpath=['file://{conf}']"):
        assert "++model._target_='mylab.models.NCM'" in taken(content, typed)
    # For that group alone.
    with pytest.raises(UserError, match="for the group backbone"):
        taken(with_part("backbone", {"_target_": "mylab.models.NCM"}), f"--config-dir={conf}")


def test_a_data_set_s_parts_are_groups_of_their_own(tmp_path: Path) -> None:
    text = "# @package _global_\ndataset:\n  source:\n    _target_: mylab.data.Faces\n"
    conf = config_folder(tmp_path, "dataset", text)
    assert named_classes([conf]) == {"dataset.source": {"mylab.data.Faces"}}


def test_an_option_that_is_not_there_names_the_folder_that_the_run_had(tmp_path: Path) -> None:
    conf = config_folder(tmp_path, "model", "_target_: mylab.models.NCM\nname: ncm\n")
    content = state("model=er")
    content["overrides"] = ["model=mine"]
    content["config_folders"] = [str(conf)]
    with pytest.raises(UserError, match="model=mine: there is no such model") as error:
        taken(content)
    assert f"--config-dir={conf}" in str(error.value)
    assert taken(content, f"--config-dir={conf}")[0] == "model=mine"


def test_the_classes_that_a_resume_must_allow() -> None:
    config = plain("model._target_=mylab.models.NCM", "optimizer=adam")
    assert classes_to_allow(config, Arguments(())) == ["mylab.models.NCM"]


# --- paths and addresses --------------------------------------------------------------------------


def test_a_path_or_an_address_from_a_file_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / CLASSES).write_text(
        "from pathlib import Path\n"
        "from collections.abc import Sequence\n"
        "from perdure.config.build import Reference, Url\n"
        "class A:\n"
        "    def __init__(self, root: Path | None, mirrors: Sequence[Url], weights: Reference,\n"
        "                 width: int, note: str) -> None: ...\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    node = {"_target_": "mylab_models.A"}
    config = {"backbone": {**node, **dict.fromkeys(("root", "mirrors", "weights", "note"), "x")}}
    for name in ("root", "mirrors", "weights"):
        key = f"backbone.{name}"
        with pytest.raises(UserError, match=rf"checkpoint.allow=\[{key}\]"):
            refuse_locations(config, {key}, (), "old.pt")
        refuse_locations(config, {key}, (key,), "old.pt")
    refuse_locations(config, {"backbone.note", "backbone.width"}, (), "old.pt")
    refuse_locations(config, (), (), "old.pt")
    sys.modules.pop("mylab_models")


def test_a_parameter_that_is_a_path_takes_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mylab_paths.py").write_text(
        "from pathlib import Path\n"
        "class A:\n"
        "    def __init__(self, root: Path | None, either: Path | str) -> None:\n"
        "        self.root, self.either = root, either\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    node = {"_target_": "mylab_paths.A", "root": "~/x", "either": "y"}
    built = build(node, "backbone")
    assert (built.root, built.either) == (Path.home() / "x", "y")
    assert build({**node, "root": None}, "backbone").root is None
    with pytest.raises(UserError, match=r"backbone\.root=3: must be a path or null"):
        build({**node, "root": 3}, "backbone")


def test_the_command_to_resume_repeats_what_no_file_may_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mylab_command.py").write_text(
        "from perdure.config.build import Url\n"
        "class A:\n"
        "    def __init__(self, backbone, home: Url, width: int = 1) -> None: ...\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    typed = (
        "model._target_=mylab_command.A", "+model.home='http://x/y'", "+model.width=3",
        "checkpoint=default", "checkpoint.save=true", "optimizer.lr=0.5",
    )  # fmt: skip
    words = command_to_resume(Arguments(typed), plain(*typed), Path("run"))
    assert shlex.split(words)[2:] == [
        "checkpoint.load=run", "+model.home='http://x/y'", "checkpoint=default",
        "checkpoint.save=true", "checkpoint.allow=[mylab_command.A]",
    ]  # fmt: skip


def test_the_mirrors_of_our_own_sources_are_addresses() -> None:
    config = plain("dataset=seq-fmnist", "+dataset.source.mirrors=['http://127.0.0.1/x']")
    with pytest.raises(UserError, match=r"dataset\.source\.mirrors"):
        refuse_locations(config, {"dataset.source.mirrors"}, (), "old.pt")


# --- text -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "${oc.env:SECRET}", "${seed}", "\\${seed}", "${run_timestamp:x}", "${", "$${x}", "a'b",
        "\\", "${oc.env:SECRET,${oc.env:HOME}}", "${hydra:job.name}", "x\ny", "é", "a,b", "[1]",
    ],
)  # fmt: skip
def test_stored_text_is_literal(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "hunter2")
    content = state("model=er", "+model.note=x", model__note=text)
    once = resumed(content)
    assert once["model"]["note"] == text
    again = {"args": once, "overrides": taken(content)}
    assert resumed(again)["model"]["note"] == text


@settings(max_examples=300, deadline=None)
@given(st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.from_regex(r"[a-z_][a-z0-9_]{0,5}", fullmatch=True), inner, max_size=3),
    max_leaves=8,
))  # fmt: skip
def test_any_plain_value_survives_the_grammar(value: Any) -> None:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    override = OverridesParser.create().parse_override(f"key={quoted(value)}")
    held = OmegaConf.create({"key": override.value()})
    if "???" not in str(value):  # OmegaConf's own word for a value that is missing
        assert OmegaConf.to_container(held, resolve=True) == {"key": value}
