"""Load pretrained weights (any state dict) into a backbone, with a report on each tensor.

The names that Mammoth, torchvision and others give a layer are mapped for the networks that exist
here too:
their two-layer MLP, and ResNet-18 with a 3x3 stem.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from perdure.backbones.base import Backbone
from perdure.checkpoint.interop.foreign import shorten
from perdure.errors import UserError

_HEAD = "head."
_HEADS = ("classifier", "fc", "linear")
_LAYER = re.compile(r"layers\.(\d+)\.(.+)")
_BLOCK = re.compile(r"blocks\.(\d+)\.(.+)")
_RESNET18 = 8
"""Blocks of a ResNet-18: two in each of torchvision's `layer1` to `layer4`."""
_COUNTER = ".num_batches_tracked"
_N_SHOWN = 6


@dataclass(frozen=True)
class Report:
    """What became of every tensor.

    Attributes:
        filled: tensor of the backbone → its name in the file.
        skipped: name in the file → why it was not taken.
        missing: tensors of the backbone that keep their initial values.
    """

    filled: dict[str, str]
    skipped: dict[str, str]
    missing: tuple[str, ...]

    def lines(self) -> list[str]:
        """The same for people, a line for each thing that may matter."""
        n = len(self.filled)
        lines = [f"filled {n} of the network's {n + len(self.missing)} tensors"]
        if self.missing:
            lines.append(f"not filled, so as initialized: {_few(self.missing)}")
        for reason in dict.fromkeys(self.skipped.values()):
            names = [name for name, why in self.skipped.items() if why == reason]
            lines.append(f"skipped ({reason}): {_few(names)}")
        return lines


def fill(
    backbone: Backbone,
    weights: Mapping[str, Tensor],
    *,
    allow_missing: bool = False,
    new_head: bool = False,
) -> Report:
    """Copy `weights` into the tensors of `backbone` that they belong to; all or nothing.

    Args:
        backbone: itself, or wrapped (DistributedDataParallel, torch.compile, …).
        weights: by name, with or without prefixes of wrappers.
        allow_missing: accept that some tensors of the backbone are not there, and that the file's
            network is a deeper one.
        new_head: leave the backbone's last layer as it is, whatever the file holds.

    Raises:
        UserError: nothing fits, the classifier has another number of classes, or tensors are
            missing.
    """
    own = backbone.state_dict()
    plan = _Plan(own, weights, new_head)
    plan.check(allow_missing)
    with torch.no_grad():
        for name, source in plan.filled.items():
            value = weights[source]
            if hasattr(own[name], "device_mesh"):  # the network is in parts, one a process
                from perdure.distributed.fsdp import like

                value = like(value, own[name])
            own[name].copy_(value)
    return Report(plan.filled, plan.skipped, plan.missing)


class _Plan:
    """Which of `weights` goes where; names are compared without prefixes, reported with them."""

    def __init__(
        self, own: Mapping[str, Tensor], weights: Mapping[str, Tensor], new_head: bool
    ) -> None:
        self.own = own
        self.weights = weights
        self.new_head = new_head
        self.short = shorten(own)
        self.bare = shorten(weights)
        self.full_names = {short: name for name, short in self.bare.items()}
        self.aliases = _aliases(self.short.values())
        self.filled: dict[str, str] = {}
        self.skipped: dict[str, str] = {}
        for name in own:
            self._place(name)
        self._explain_the_rest()
        self.missing = tuple(name for name in own if name not in self.filled)

    def _place(self, name: str) -> None:
        """Find the tensor that belongs in the backbone's `name`."""
        source = self._source(name)
        if source is None:
            return
        here, there = self.own[name], self.weights[source]
        if self.new_head and self._in_head(name):
            self.skipped[source] = "checkpoint.new_head keeps a new last layer"
        elif there.shape != here.shape:
            self.skipped[source] = f"{_shape(there)} where the network has {_shape(here)}"
        elif there.is_floating_point() != here.is_floating_point():
            self.skipped[source] = f"{there.dtype} where the network has {here.dtype}"
        else:
            self.filled[name] = source

    def _source(self, name: str) -> str | None:
        short = self.short[name]
        names = (short, *self.aliases.get(short, ()))
        return next((self.full_names[other] for other in names if other in self.full_names), None)

    def _explain_the_rest(self) -> None:
        placed = {**dict.fromkeys(self.filled.values(), ""), **self.skipped}
        for source, tensor in self.weights.items():
            if source not in placed:
                self.skipped[source] = self._reason(tensor)

    def _reason(self, tensor: Tensor) -> str:
        others = (self.weights[name] for name in self.filled.values())
        if any(o.dtype == tensor.dtype and torch.equal(o, tensor) for o in others):
            return "the same as another, under a second name"
        return "the network has no such tensor"

    def _in_head(self, name: str) -> bool:
        return self.short[name].startswith(_HEAD)

    def check(self, allow_missing: bool) -> None:
        """Refuse a plan that the user would not want."""
        if not any(not name.endswith(_COUNTER) for name in self.filled):
            raise UserError(
                f"the checkpoint fills nothing: it holds {_few(list(self.weights)) or 'nothing'}; "
                f"the network has {_few(list(self.own))}"
            )
        kept = [name for name in self.own if self.new_head and self._in_head(name)]
        missing = [n for n in self.missing if not n.endswith(_COUNTER) and n not in kept]
        self._check_classes(missing)
        if allow_missing:
            return
        if missing:
            key = "new_head" if all(map(self._in_head, missing)) else "allow_missing"
            raise UserError(
                f"the checkpoint does not fill {_few(missing)}{self._misfits()}; "
                f"checkpoint.{key}=true leaves them freshly initialized"
            )
        if deeper := self._deeper():
            raise UserError(
                f"the checkpoint's network has more layers than this one: {_few(deeper)}; "
                "checkpoint.allow_missing=true takes what there is a place for"
            )

    def _check_classes(self, missing: Iterable[str]) -> None:
        for name in filter(self._in_head, missing):
            source = self._source(name)
            if source is None:
                continue
            n_here, n_there = self.own[name].shape[0], self.weights[source].shape[:1].numel()
            if n_there != n_here:
                raise UserError(
                    f"the checkpoint's classifier {source} is for {n_there} classes, this run has "
                    f"{n_here}; checkpoint.new_head=true starts with a fresh one"
                )

    def _misfits(self) -> str:
        reasons = [f"{name} is {why}" for name, why in self.skipped.items() if " where " in why]
        return f" ({reasons[0]})" if reasons else ""

    def _deeper(self) -> list[str]:
        """What was skipped though its neighbors were taken: `layer1.2` beside `layer1.1`."""
        stems = {_stem(self.bare[name]) for name in self.filled.values()}
        return [
            source
            for source, reason in self.skipped.items()
            if reason.startswith("the network has no") and _stem(self.bare[source]) in stems
        ]


def _stem(name: str) -> str:
    """`layer3.1.conv1.weight` → `layer`: what the numbered layers of a network share."""
    return name.partition(".")[0].rstrip("0123456789")


def _aliases(names: Iterable[str]) -> dict[str, list[str]]:
    """Our name of a tensor → what others call it, the likeliest first."""
    known = list(names)
    depth = len({match[1] for name in known if (match := _LAYER.fullmatch(name))})
    is_resnet18 = len({m[1] for name in known if (m := _BLOCK.fullmatch(name))}) == _RESNET18
    found: dict[str, list[str]] = {}
    for name in known:
        if name.startswith(_HEAD):
            rest = name.removeprefix(_HEAD)
            heads = (*_HEADS, f"fc{depth + 1}") if depth else _HEADS
            found[name] = [f"{head}.{rest}" for head in heads]
        elif match := _LAYER.fullmatch(name):
            found[name] = [f"fc{int(match[1]) + 1}.{match[2]}"]
        elif is_resnet18 and (match := _BLOCK.fullmatch(name)):
            stage, block = divmod(int(match[1]), 2)
            other = f"layer{stage + 1}.{block}.{match[2]}"
            found[name] = [other, other.replace(".shortcut.", ".downsample.")]
    return found


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a single number"


def _few(names: Sequence[str]) -> str:
    more = len(names) - _N_SHOWN
    return ", ".join(names[:_N_SHOWN]) + (f" and {more} more" if more > 0 else "")
