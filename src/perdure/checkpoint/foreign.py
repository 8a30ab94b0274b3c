"""Any file that `torch.save` wrote: opened without running what is in it, and recognised.

A file is read only when its entries are stored as they are (a compressed one of 200 KB can unfold
to 200 MB) and all their checksums fit; `torch.load(weights_only=True)` then builds tensors and
plain values, and refuses everything else. There is no list of further classes that are let in.

The format of torch before 1.6 is refused: it has no checksums, so of 300 such files with one bit
flipped 294 load, and hold wrong numbers without a word.
"""

from __future__ import annotations

import os
import pickle
import re
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import torch
from torch import Tensor

from perdure.checkpoint import format as files
from perdure.errors import UserError

Kind = Literal["perdure", "light", "mammoth", "catalyst", "plain"]

LIMIT = 8 * 2**30
"""Bytes that a file may have, and the tensors in it."""

_MOST_VALUES = 2_000_000
_DEEPEST = 50
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
_GLOBAL = re.compile(r"GLOBAL ([\w.]+)")
_FOLDER = 0x10  # torch would read such an entry as empty, and fill its tensor with anything
_OLD_TORCH = b"\x80\x02\x8a\x0a"


@dataclass(frozen=True)
class Opened:
    """What a file holds.

    Attributes:
        path: the file itself, where a link was opened.
        kind: `perdure` (a full file of ours), `light` (`model_state_dict`, and no training loop
            known to us), `mammoth`, `catalyst` (20.12 to 22.04), `plain` (a network's weights).
        content: all of it, as it stands.
        about: what its sidecar says, whose SHA-256 it has; empty for a file without one, which was
            checked by the CRC-32 sums within it alone.
        weights: the network's tensors, without the prefixes of what was wrapped around it.
        args: the configuration in it; empty where there is none.
        results: the measurements in it, as they stand.
        buffer: the remembered rows in it, {name: [rows, …]}.
    """

    path: Path
    kind: Kind
    content: dict[str, Any]
    about: dict[str, Any]
    weights: dict[str, Tensor]
    args: dict[str, Any]
    results: Any
    buffer: dict[str, Tensor]


def open_file(path: Path, limit: int = LIMIT) -> Opened:
    """Load `path` and say what it is; `limit` in bytes holds for files without our sidecar.

    Raises:
        DamagedError: the content is not what was written.
        UserError: it cannot be read, is too large, no file of `torch.save`, asks for code to be
            run, or holds no weights.
    """
    if not path.is_file():
        raise UserError(f"{path}: {'no plain file' if path.exists() else 'there is no such file'}")
    # A link such as best.pth has no sidecar of its own.
    path = Path(os.path.realpath(path))
    about = files.verify(path) if files.sidecar(path).exists() else {}
    content = _load(path, None if about else limit)
    kind, state = _recognise(path, content)
    args, rows = content.get("args"), content.get("buffer")
    if kind == "perdure" and isinstance(rows, Mapping):
        rows = rows.get("fields")
    return Opened(
        path,
        kind,
        content,
        about,
        {name: state[full] for full, name in shorten(state).items()},
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


# --- recognising ------------------------------------------------------------------------------


def _recognise(path: Path, content: Mapping[str, Any]) -> tuple[Kind, dict[str, Tensor]]:
    model = _tensors(content.get("model"))
    if model and isinstance(content.get("format"), int) and "position" in content:
        if content["format"] > files.FORMAT:
            raise UserError(
                f"{path}: format {content['format']} is newer than {files.FORMAT}, the newest this "
                "version of Perdure reads"
            )
        return "perdure", model
    if model and {"args", "results"} <= content.keys():
        return "mammoth", model
    states = {
        match[1] or "": _tensors(value)
        for key, value in content.items()
        if isinstance(key, str) and (match := _MODEL_STATE.fullmatch(key))
    }
    if any(states.values()):
        kind: Kind = "catalyst" if _CATALYST & content.keys() or "" not in states else "light"
        return kind, _together(states)
    nested = (_tensors(content.get(key)) for key in ("state_dict", "model", "net"))
    state = next(filter(None, (*nested, _tensors(content))), None)
    if state is None:
        keys = ", ".join(map(str, list(content)[:10])) or "nothing"
        raise UserError(f"{path}: holds {keys}, where no network's weights are recognised")
    return "plain", state


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


# --- opening ----------------------------------------------------------------------------------


def _load(path: Path, limit: int | None) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            _check_archive(path, file, limit)
            file.seek(0)
            content = torch.load(file, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except pickle.UnpicklingError as error:
        asked = _GLOBAL.search(str(error))
        what = f"it asks for {asked[1]}" if asked else "it holds more than tensors and plain values"
        raise UserError(
            f"{path}: refused, and nothing in it was run: {what}; a checkpoint of state "
            "dictionaries, numbers, text, lists and dictionaries is accepted"
        ) from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None
    except Exception as error:  # torch.load has no error of its own
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise files.DamagedError(f"{path}: damaged ({reason})") from None
    if not isinstance(content, Mapping):
        raise UserError(f"{path}: holds a {type(content).__name__}, not a dictionary of tensors")
    if limit is not None:
        _check_content(path, content, limit)
    return dict(content)


def _check_archive(path: Path, file: BinaryIO, limit: int | None) -> None:
    """Refuse, before anything is loaded, what is no sound archive of bytes stored as they are."""
    size = os.fstat(file.fileno()).st_size
    _require_size(path, size, limit)
    start = file.read(4)
    if start != b"PK\x03\x04":
        raise UserError(f"{path}: {_words_for(start, path)}")
    try:
        with zipfile.ZipFile(file) as archive:
            _check_entries(path, archive.infolist(), size)
            bad = archive.testzip()
    except (zipfile.BadZipFile, EOFError, RuntimeError, ValueError) as error:
        raise files.DamagedError(f"{path}: damaged or cut short ({error})") from None
    if bad is not None:
        raise files.DamagedError(f"{path}: damaged (the checksum of its part {bad} does not fit)")


def _check_entries(path: Path, entries: list[zipfile.ZipInfo], size: int) -> None:
    names = {entry.filename for entry in entries}
    if any(name.endswith("/constants.pkl") for name in names):
        raise UserError(f"{path}: refused: a TorchScript program; its state_dict() is accepted")
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise UserError(f"{path}: refused: compressed, which torch.save never does")
    if len(names) < len(entries) or sum(entry.file_size for entry in entries) > size:
        raise UserError(f"{path}: refused: its entries overlap")
    if not any(name.endswith("/data.pkl") for name in names):
        raise UserError(f"{path}: no file that torch.save wrote")
    if any(entry.external_attr & _FOLDER for entry in entries):
        raise files.DamagedError(f"{path}: damaged (a part of it is marked as a folder)")


def _words_for(start: bytes, path: Path) -> str:
    if start == _OLD_TORCH:
        return (
            "written in the format of torch before 1.6, whose damage cannot be seen; if you trust "
            f"it, torch.save(torch.load({path.name!r}, weights_only=True), 'new.pt') makes it one "
            "that is accepted"
        )
    return "no file that torch.save wrote" if start else "is empty"


def _check_content(path: Path, content: Mapping[str, Any], limit: int) -> None:
    """Refuse small files that unfold when they are walked through or copied.

    A list that holds another twice, which holds another twice, …; a tensor of stride 0.
    """
    n_bytes = 0
    for number, (value, depth) in enumerate(_walk(content)):
        if number >= _MOST_VALUES or depth >= _DEEPEST:
            raise UserError(f"{path}: refused: its values are nested beyond any checkpoint's")
        n_bytes += _n_bytes(value)
    _require_size(path, n_bytes, limit)


def _walk(value: Any) -> Iterator[tuple[Any, int]]:
    """Every value within `value`, itself included, and how deep it is nested."""
    levels = [iter((value,))]
    while levels:
        for inner in levels[-1]:
            yield inner, len(levels)
            if isinstance(inner, Mapping | list | tuple | set):
                levels.append(iter(inner.values() if isinstance(inner, Mapping) else inner))
                break
        else:
            levels.pop()


def _n_bytes(value: Any) -> int:
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    return len(value) if isinstance(value, str | bytes | bytearray) else 0


def _require_size(path: Path, n_bytes: int, limit: int | None) -> None:
    if limit is not None and n_bytes > limit:
        raise UserError(f"{path}: {n_bytes:,} bytes are more than the limit of {limit:,}")
