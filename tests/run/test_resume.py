"""Whether a run may be resumed with the configuration that it is given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hydra import compose as hydra_compose
from omegaconf import OmegaConf

import perdure
from perdure.checkpoint.core.migrate import migrated
from perdure.config.compare import require_same
from perdure.config.compose import compose, configuration
from perdure.config.overrides import override
from perdure.errors import UserError
from perdure.run.resume import plan

NEWER = ("shards", "exact", "replay_sync", "sync_batchnorm", "parallel", "collective_timeout")


def plain(*overrides: str) -> dict[str, Any]:
    config = compose("timestamp=now", "training.shards=1", *overrides)
    args: Any = OmegaConf.to_container(config, resolve=True, enum_to_str=True)
    return dict(args)


def before_shards() -> dict[str, Any]:
    """The configuration in a checkpoint from before runs had shards."""
    args = plain()
    for key in NEWER:
        del args["training"][key]
    before = migrated({"format": 1, "args": args})["args"]
    return dict(before)


def test_an_older_checkpoint_resumes_as_it_always_did() -> None:
    require_same(plain(), before_shards(), Path("old.pt"))


@pytest.mark.parametrize(
    "changed", ["training.shards=2", "training.exact=false", "training.parallel=fsdp"]
)
def test_an_older_checkpoint_does_not_resume_otherwise(changed: str) -> None:
    with pytest.raises(UserError, match=rf"{changed.partition('=')[0]}=\S+ \(was \w+\)"):
        require_same(plain(changed), before_shards(), Path("old.pt"))


def test_what_may_differ_and_what_may_not() -> None:
    require_same(plain("device=cpu", "training.log_every=7"), plain(), Path("run.pt"))
    with pytest.raises(UserError, match=r"optimizer.lr=0.5 \(was 0.1\)"):
        require_same(plain("optimizer.lr=0.5"), plain(), Path("run.pt"))


NAMES = [
    "a b", "it's", 'a"b"', "back\\slash", "end\\", "${seed}", "\\${seed}", "a,b", "[1]", "{x}",
    "a=b", "x(y)", "null", "#1", "~x", "é",
]  # fmt: skip


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one task of a few steps, with its checkpoint."""
    folder = tmp_path_factory.mktemp("runs") / "short"
    perdure.train(
        "model=sgd", "dataset.iterations=2", "dataset.stop_after=1", "checkpoint.save=true",
        "tracking.console=off", folder=folder,
    )  # fmt: skip
    return folder


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.process
def test_a_run_is_resumed_in_its_folder_whatever_its_name(short: Path, name: str) -> None:
    folder = short.parent / name
    short.rename(folder)
    try:
        planned = plan([override("checkpoint.load", str(folder)), "dataset.stop_after=2"])
        with configuration():
            config = hydra_compose("train", list(planned.words), return_hydra_config=True)
        assert Path(config.hydra.run.dir) == folder
        assert config.checkpoint.load == str(folder)
    finally:
        folder.rename(short)


@pytest.mark.parametrize("name", ["outputs", "it's ${odd}, \\ [x]"])
def test_latest_looks_below_the_root_as_hydra_reads_it(
    short: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = short.parent.parent / name
    root.mkdir()
    (root / "run").symlink_to(short)
    monkeypatch.setenv("ROOT", str(root))
    for typed in (override("output_root", str(root)), "++output_root=${oc.env:ROOT}"):
        planned = plan(["++checkpoint.load='latest'", typed, "checkpoint.fork=on"])
        assert planned.start is not None
        assert planned.start.fork
        assert planned.start.run == short
