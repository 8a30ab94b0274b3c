"""Runs every case once on as many ranks as torchrun started, and keeps the ends of all of them.

python worlds.py OUTPUT CASE …: a plain process does it too. Started by test_worlds.py.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from perdure.backbones.base import Backbone
from perdure.checkpoint.core.encode import plain
from perdure.config.build import locate
from perdure.config.compose import compose, register
from perdure.config.folder import CONF
from perdure.config.typed import typed
from perdure.config.validation import validate
from perdure.datasets.arrays import Arrays, Split
from perdure.datasets.sources import MNIST
from perdure.distributed.process_group import Ranks, join
from perdure.run.assemble import make_trainer
from perdure.training.recording import Launch


@lru_cache
def first_images() -> Arrays:
    """Read once a process, not once a case."""
    arrays = MNIST().load(Path())
    train, test = arrays.train, arrays.test
    return replace(
        arrays,
        train=Split(train.x[:533], train.y[:533]),
        test=Split(test.x[:300], test.y[:300]),
    )


class Few(MNIST):
    """The first images of MNIST: 83 to 127 a task of two digits, so the last batches are uneven."""

    def load(self, root: Path) -> Arrays:
        return first_images()


class Noisy(Backbone):
    """Dropout and batch norm: what depends on who runs which examples."""

    def __init__(self, input_shape: tuple[int, int, int], n_classes: int) -> None:
        super().__init__(24, n_classes)
        self.first = nn.Linear(784, 24)
        self.norm = nn.BatchNorm1d(24)
        self.drop = nn.Dropout(0.3)

    def features(self, x: Tensor) -> Tensor:
        out: Tensor = self.drop(torch.relu(self.norm(self.first(x.flatten(1)))))
        return out


class Normed(Noisy):
    """Batch norm alone, in 2-D too."""

    def __init__(self, input_shape: tuple[int, int, int], n_classes: int) -> None:
        super().__init__(input_shape, n_classes)
        self.drop.p = 0.0
        self.early = nn.BatchNorm2d(1)

    def features(self, x: Tensor) -> Tensor:
        return super().features(self.early(x))


class Failing(Noisy):
    """Fails on rank 1 alone, in training."""

    def features(self, x: Tensor) -> Tensor:
        if self.training and os.environ.get("RANK") == "1":
            raise RuntimeError("only this process fails")
        return super().features(x)


BASE = (
    "dataset=seq-mnist", "dataset.source._target_=worlds.Few", "dataset.iterations=9",
    "dataset.stop_after=2", "training.eval_batch_size=13",
    "optimizer.lr=0.05", "optimizer.momentum=0.9", "training.log_every=4",
    "tracking.console=off", "device=cpu",
)  # fmt: skip
CROP = ("dataset.transform._target_=perdure.datasets.transforms.CropFlip",)
NOISY = (*CROP, "~backbone.hidden", "backbone._target_=worlds.Noisy")
NORMED = ("~backbone.hidden", "backbone._target_=worlds.Normed")
FOUR = ("training.shards=4",)
# A buffer of 7 and draws of 3 leave the last shard's replay empty at every step.
SMALL = ("buffer.size=7", "buffer.batch_size=3")
EPOCH = ("dataset.iterations=null", "dataset.epochs=1", "backbone=mlp")
OWN = {
    "er-tricks": ("optimizer.momentum=0", "model.correction_epochs=2"),
    "agem": ("buffer.size=60",),
    "gdumb": ("model.epochs=3",),
    "gem": ("buffer.size=60",),  # 12 of each task: three a shard, which batch norm needs
    "hat": ("optimizer.momentum=0",),
    "mer": ("optimizer.momentum=0",),
}
"""Options without which a method does not go with `BASE`, or takes long."""


def methods() -> Iterator[tuple[str, tuple[str, ...]]]:
    """Each method whose batches can be split, and the overrides that choose it."""
    for path in sorted((CONF / "model").glob("*.yaml")):
        # Composing each would cost every rank seconds.
        if locate(OmegaConf.load(path)["_target_"], "model").additive:
            yield path.stem, (f"model={path.stem}", *OWN.get(path.stem, ()))


METHODS = dict(methods())
PLAIN = ("hat", "pnn", "podnet")
"""Those that refuse the noisy network: hat and pnn batch norm, podnet one without feature maps."""
UNEVEN = ("agem", "der", "derpp", "er", "er-ace", "gem", "hat", "mer", "sgd", "si")
EXACT: dict[str, tuple[str, ...]] = {
    **{
        f"{m}-noisy": ("buffer.size=30", *w, *NOISY, *FOUR)
        for m, w in METHODS.items()
        if m not in PLAIN
    },
    **{f"{m}-plain": ("buffer.size=30", *METHODS[m], *EPOCH, *FOUR) for m in PLAIN},
    **{f"{m}-uneven": (*METHODS[m], *SMALL, *EPOCH, *FOUR) for m in UNEVEN},
    "bf16": ("model=derpp", "training.precision=bf16", "training.clip_norm=0.5", *FOUR),
    "fp16": ("model=derpp", "training.precision=fp16", "training.clip_norm=0.5", *FOUR),
    "balanced": ("model=er", "buffer=class-balanced", "buffer.size=20", *FOUR),
    "loss-aware": ("model=derpp", "buffer=loss-aware", *SMALL, *EPOCH, *FOUR),
    "joint": ("model=sgd", "training=joint", "dataset.stop_after=null", *FOUR),
    "future": ("model=er", "training.evaluate_future=true", "scheduler=cosine", *FOUR),
}
CLOSE: dict[str, tuple[str, ...]] = {
    "loose": ("model=derpp", "buffer.size=30", "training.exact=false"),
    "loose-accumulated": ("model=derpp", "buffer.size=30", "training.exact=false", *FOUR),
    "fsdp": ("model=derpp", "buffer.size=30", "training.parallel=fsdp"),
    "fsdp-accumulated": (
        "model=derpp",
        "buffer.size=30",
        "training.parallel=fsdp",
        "training.clip_norm=0.5",
        *FOUR,
    ),
    "fsdp-normed": ("model=er", *NORMED, "training.parallel=fsdp", "training.sync_batchnorm=true"),
    "normed": ("model=derpp", "buffer.size=30", *NORMED, "training.sync_batchnorm=true"),
    "normed-small": ("model=derpp", *SMALL, *NORMED, "training.sync_batchnorm=true"),
    "local": ("model=derpp", "buffer.size=30", "training.replay_sync=local"),
}
CASES = {**EXACT, **CLOSE}
OFTEN = (
    "agem-noisy", "derpp-noisy", "gem-noisy", "hat-plain", "icarl-noisy", "mer-uneven", "er-uneven",
    "fp16", "balanced", "loss-aware", "joint", "future",
    "loose-accumulated", "fsdp-accumulated", "fsdp-normed", "normed-small", "local",
)  # fmt: skip
"""One of each way to reduce, to draw and to store: a first look at every change. The other methods
share these ways, and are run on demand."""


def end_of(case: str, ranks: Ranks) -> Any:
    """Everything that a checkpoint at the end would hold, and the results."""
    config = None
    if ranks.is_main:  # composing costs more than training here
        config = compose(*BASE, *CASES[case], "timestamp=now")
    config = ranks.broadcast(config)
    assert config is not None
    validate(config)
    run = typed(config)
    run.training.shards = run.training.shards or ranks.size
    trainer = make_trainer(run, launch=Launch(ranks=ranks))
    results = trainer.fit()
    state = plain(trainer.state_dict())
    return {**state, "matrix": results["accuracy_matrix"]}


def main() -> None:
    register()
    ranks = join(60)
    ends = {case: end_of(case, ranks) for case in sys.argv[2:] or CASES}
    if ranks.is_main:
        torch.save(ends, sys.argv[1])


if __name__ == "__main__":
    sys.modules["worlds"] = sys.modules["__main__"]  # the config names classes of this file
    main()
