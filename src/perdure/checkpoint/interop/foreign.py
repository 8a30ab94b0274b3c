"""Open any checkpoint: ours, Mammoth's, Catalyst's, or plain weights, and recognize which it is."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from perdure.checkpoint.core import archive, sidecars
from perdure.checkpoint.core import format as files
from perdure.checkpoint.core.aliases import is_full
from perdure.checkpoint.core.archive import LIMIT
from perdure.checkpoint.core.migrate import migrated
from perdure.errors import UserError

Kind = Literal["perdure", "weights-only", "mammoth", "catalyst", "plain"]

_WRAPPERS = (
    "module",  # DataParallel, DistributedDataParallel
    "_orig_mod",  # torch.compile
    "_fsdp_wrapped_module",
    "_checkpoint_wrapped_module",
    "backbone",  # our methods
    "net",  # Mammoth's methods
    "wrappee",
    "model",
    "network",
)
_PREFIX = re.compile(f"({'|'.join(_WRAPPERS)})\\.(?=.)")
_MODEL_STATE = re.compile(r"model(_.+)?_state_dict")
_CATALYST = {"stage", "stage_key", "stage_epoch_step", "epoch_step", "global_epoch_step"}


@dataclass(frozen=True)
class Opened:
    """What a file holds.

    Attributes:
        path: the file itself, where a link was opened.
        kind: `perdure` (a full checkpoint of ours), `weights-only` (`model_state_dict`, and no
            training loop known to us), `mammoth`, `catalyst` (20.12 to 22.04), `plain` (a network's
            weights).
        content: all of it, as it stands; of ours without Catalyst's names for its parts.
        metadata: of its sidecar, whose SHA-256 it has; empty for a file without one, which was
            checked by the CRC-32 sums within it alone.
        weights: the network's tensors, without the prefixes of what was wrapped around it; of
            several networks under the network's name.
        networks: name of each network → its tensors, where a Catalyst file has several
            (`model_<name>_state_dict`); empty otherwise.
        args: the configuration in it; empty where there is none.
        results: the measurements in it, as they stand.
        buffer: the stored rows in it, {field: tensor of shape [rows, …]}.
    """

    path: Path
    kind: Kind
    content: dict[str, Any]
    metadata: dict[str, Any]
    weights: dict[str, Tensor]
    networks: dict[str, dict[str, Tensor]]
    args: dict[str, Any]
    results: Any
    buffer: dict[str, Tensor]


def open_file(path: Path, limit: int = LIMIT) -> Opened:
    """Load `path` and recognize what it is.

    Args:
        path: the file, or a link to it.
        limit: bytes that it may have, and its tensors together.

    Raises:
        UserError: as `archive.load`; what is committed is not what is there; or it holds no
            weights.
    """
    if not path.is_file():
        raise UserError(f"{path}: {'no plain file' if path.exists() else 'there is no such file'}")
    # A link such as best.pth has no sidecar of its own.
    path = Path(os.path.realpath(path))
    metadata = files.committed(path) if os.path.lexists(sidecars.path_of(path)) else {}
    content = archive.load(path, limit, metadata.get("sha256"))
    kind, state = _recognize(path, content)
    if kind == "perdure":
        content = migrated(content)
    args, rows = content.get("args"), content.get("buffer")
    if kind == "perdure" and isinstance(rows, Mapping):
        rows = rows.get("fields")
    return Opened(
        path,
        kind,
        content,
        metadata,
        _short(state),
        {name[1:]: _short(part) for name, part in _states(content).items() if name},
        dict(args) if isinstance(args, Mapping) else {},
        content.get("results"),
        _tensors(rows),
    )


def shorten(names: Iterable[str]) -> dict[str, str]:
    """Name → the same without the prefixes that wrappers put before it, however many there are.

    What all names share goes first; after that a name keeps its prefixes where another would then
    be called the same.
    """
    full = list(names)
    common = {name: name for name in full}
    while len(first := set(map(_wrapper, common.values()))) == 1 and first != {""}:
        common = {name: short.partition(".")[2] for name, short in common.items()}
    bare = {name: _bare(short) for name, short in common.items()}
    times = Counter(bare.values())
    return {name: bare[name] if times[bare[name]] == 1 else common[name] for name in full}


def _wrapper(name: str) -> str:
    match = _PREFIX.match(name)
    return match[1] if match else ""


def _bare(name: str) -> str:
    while match := _PREFIX.match(name):
        name = name[match.end() :]
    return name


# --- recognizing ------------------------------------------------------------------------------


def _recognize(path: Path, content: dict[str, Any]) -> tuple[Kind, dict[str, Tensor]]:
    model = _tensors(content.get("model"))
    if model and is_full(content):
        if content["format"] > files.FORMAT:
            raise UserError(
                f"{path}: format {content['format']} is newer than {files.FORMAT}, the newest this "
                "version of Perdure reads"
            )
        return "perdure", model
    if model and {"args", "results"} <= content.keys():
        return "mammoth", model
    states = _states(content)
    if any(states.values()):
        is_catalyst = _CATALYST & content.keys() or "" not in states
        return ("catalyst" if is_catalyst else "weights-only"), _together(states)
    nested = (_tensors(content.get(key)) for key in ("state_dict", "model", "net"))
    state = next(filter(None, (*nested, _tensors(content))), None)
    if state is None:
        keys = ", ".join(map(str, list(content)[:10])) or "nothing"
        raise UserError(f"{path}: holds {keys}, where no network's weights are recognized")
    return "plain", state


def _states(content: Mapping[str, Any]) -> dict[str, dict[str, Tensor]]:
    """Catalyst's `model_state_dict` under "", a `model_<name>_state_dict` under `_<name>`."""
    return {
        match[1] or "": _tensors(value)
        for key, value in content.items()
        if isinstance(key, str) and (match := _MODEL_STATE.fullmatch(key))
    }


def _short(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: state[full] for full, name in shorten(state).items()}


def _together(states: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """One network's weights as they are; those of several under the network's name."""
    if len(states) == 1:
        return dict(next(iter(states.values())))
    return {
        f"{network.lstrip('_')}.{name}".lstrip("."): tensor
        for network, state in states.items()
        for name, tensor in state.items()
    }


def _tensors(value: Any) -> dict[str, Tensor]:
    """The ordinary tensors among the values of a dictionary."""
    if not isinstance(value, Mapping):
        return {}
    return {
        name: tensor.detach()
        for name, tensor in value.items()
        if isinstance(name, str)
        and isinstance(tensor, Tensor)
        and tensor.layout is torch.strided
        and tensor.device.type == "cpu"
        and not tensor.is_quantized
    }
