"""Whether a run may be resumed with the configuration that it is given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from perdure.checkpoint.core.migrate import migrated
from perdure.config.compare import require_same
from perdure.config.compose import compose
from perdure.errors import UserError

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
