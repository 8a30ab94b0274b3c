"""pack_checkpoint, save_checkpoint, load_checkpoint, unpack_checkpoint: Catalyst-style helpers.

They save and load a user's own model and optimizer, without the trainer:

checkpoint = pack_checkpoint(model, optimizer=optimizer, epoch=3)
save_checkpoint(checkpoint, "last.pth")
unpack_checkpoint(load_checkpoint("last.pth"), model, optimizer=optimizer)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from perdure.backbones.base import Backbone
from perdure.checkpoint.core import sidecars
from perdure.checkpoint.core.aliases import with_aliases
from perdure.checkpoint.core.encode import plain
from perdure.checkpoint.interop.foreign import open_file, shorten
from perdure.checkpoint.interop.weights import fill
from perdure.errors import UserError
from perdure.io import atomic
from perdure.models.base import Method


def pack_checkpoint(
    model: Any = None,
    criterion: Any = None,
    optimizer: Any = None,
    scheduler: Any = None,
    **extra: Any,
) -> dict[str, Any]:
    """A dictionary of state dictionaries, and of `extra` as it is.

    `model` gives `model_state_dict`; a dictionary of models gives `model_<key>_state_dict` each;
    and the others likewise. Names carry no prefix of a wrapper. A criterion that is a function
    has no state.
    """
    parts = {"model": model, "criterion": criterion, "optimizer": optimizer, "scheduler": scheduler}
    packed = dict(extra)
    for part, name, thing in _each(parts):
        if part != "criterion" or hasattr(thing, "state_dict"):
            packed[f"{name}_state_dict"] = _unwrapped(thing).state_dict()
    return packed


def unpack_checkpoint(
    checkpoint: Mapping[str, Any],
    model: Any = None,
    criterion: Any = None,
    optimizer: Any = None,
    scheduler: Any = None,
) -> None:
    """Load what both the checkpoint and the call have; the rest stays as it is.

    The checkpoint may be one of `pack_checkpoint`, of Catalyst, of Mammoth, or a run's full one,
    whose network alone a model gets that is no `Method`. Prefixes of wrappers do not matter on
    either side.

    Raises:
        UserError: they have nothing in common, or a state does not fit its object.
    """
    parts = {"model": model, "criterion": criterion, "optimizer": optimizer, "scheduler": scheduler}
    pairs = [
        (name, thing, state)
        for part, name, thing in _each(parts)
        if (state := _state_of(checkpoint, name, thing)) is not None
    ]
    if not pairs:
        requested = ", ".join(name for _, name, _ in _each(parts)) or "nothing"
        raise UserError(
            f"the checkpoint holds {', '.join(map(str, checkpoint)) or 'nothing'}, the call names "
            f"{requested}: they have nothing in common"
        )
    for name, thing, state in pairs:
        try:
            _load(_unwrapped(thing), state)
        except (RuntimeError, ValueError, KeyError) as error:
            reason = " ".join(str(error).split())
            raise UserError(f"the checkpoint's {name} does not fit: {reason}") from None


def save_checkpoint(
    checkpoint: Mapping[str, Any],
    path: Path | str | None = None,
    *,
    logdir: Path | str | None = None,
    suffix: str | None = None,
) -> str:
    """Write `checkpoint` to `path`, whole or not at all, durable when this returns.

    Without `path` it goes to `<logdir>/<suffix>.pth`, as in Catalyst 20. An older file of that name
    is replaced in one step; folders are made. The file opens with `torch.load(weights_only=True)`.

    Returns:
        The path of the file.

    Raises:
        TypeError: a part can be no tensor and no plain value; the message names it.
        UserError: no place is named, or two; or a run's own checkpoint is there.
        OSError: the disk's own error; an older file is still there.
    """
    if (path is None) == (logdir is None or suffix is None):
        raise UserError("save_checkpoint: must have a path, or a logdir and a suffix")
    path = Path(f"{logdir}/{suffix}.pth" if path is None else path)
    if sidecars.path_of(path).exists():
        raise UserError(f"{path} is a checkpoint that a run counts on; choose another name")
    content = plain(checkpoint, "checkpoint")
    atomic.make_folder(path.parent)
    atomic.write_stream(path, lambda file: torch.save(content, file))
    return str(path)


def load_checkpoint(path: Path | str) -> dict[str, Any]:
    """What `path` holds, on the host: any file that `open_file` accepts.

    A run's full checkpoint has Catalyst's names beside its own, `model_state_dict` for the network
    in `model` and so on, with the same tensors.

    Raises:
        UserError: it is damaged, demands that code is run, or holds no weights.
    """
    opened = open_file(Path(path))
    return with_aliases(opened.content) if opened.kind == "perdure" else opened.content


def _each(parts: Mapping[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """(part, name, object) of all that is not None: `model`, or `model_<key>` for several."""
    for part, things in parts.items():
        several = things if isinstance(things, Mapping) else {None: things}
        for key, thing in several.items():
            if thing is not None:
                yield part, part if key is None else f"{part}_{key}", thing


def _state_of(checkpoint: Mapping[str, Any], name: str, thing: Any) -> Mapping[str, Any] | None:
    """By Catalyst's key or by ours, a method by ours; a file of nothing but tensors is a model."""
    keys = [f"{name}_state_dict", name]
    if isinstance(_unwrapped(thing), Method):
        keys.reverse()
    state = next((checkpoint[key] for key in keys if key in checkpoint), None)
    if name == "model" and all(isinstance(v, torch.Tensor) for v in checkpoint.values()):
        state = checkpoint
    return state if isinstance(state, Mapping) and state else None


def _unwrapped(thing: Any) -> Any:
    """The module that the user wrote, without DataParallel, DDP and torch.compile around it."""
    while True:
        if isinstance(thing, nn.DataParallel | nn.parallel.DistributedDataParallel):
            thing = thing.module
        elif isinstance(thing, nn.Module) and "_orig_mod" in thing._modules:
            thing = thing._orig_mod
        else:
            return thing


def _load(thing: Any, state: Mapping[str, Any]) -> None:
    if isinstance(thing, Backbone):
        fill(thing, {name: v for name, v in state.items() if isinstance(v, torch.Tensor)})
        return
    if isinstance(thing, nn.Module) and state.keys() != thing.state_dict().keys():
        own = {short: name for name, short in shorten(thing.state_dict()).items()}
        state = {own.get(short, name): state[name] for name, short in shorten(state).items()}
    thing.load_state_dict(state)
