"""What the tests of hostile files share."""

from __future__ import annotations

import hashlib
import json
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from perdure.backbones.mlp import MLP
from perdure.checkpoint.core import format as files
from perdure.checkpoint.core import sidecars
from perdure.checkpoint.interop.foreign import open_file
from perdure.errors import UserError


def state() -> dict[str, Tensor]:
    """A small network's weights."""
    torch.manual_seed(5)
    return dict(MLP((1, 4, 4), 3, (6,)).state_dict())


def save(path: Path, content: Any, **options: Any) -> Path:
    torch.save(content, path, **options)
    return path


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def prove(path: Path) -> None:
    """Put beside the file what says that its bytes are the right ones, as anybody can."""
    data = path.read_bytes()
    about = {"format": 1, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    sidecars.path_of(path).write_text(json.dumps(about))


def refuse(path: Path, words: str) -> None:
    """The file is refused in one sentence, with a sidecar whose hash is right as without one."""
    opened: tuple[Callable[[Path], Any], ...] = (open_file, files.read)
    with pytest.raises(UserError, match=words) as caught:
        open_file(path)
    assert "\n" not in str(caught.value)
    prove(path)
    for read in opened:
        with pytest.raises(UserError, match=words) as caught:
            read(path)
        assert "\n" not in str(caught.value)
    sidecars.path_of(path).unlink()


class Call:
    """Unpickling calls `function`, unless the unpickler knows better."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.reduced = (function, arguments)

    def __reduce__(self) -> Any:
        return self.reduced


def rezip(path: Path, change: Callable[[zipfile.ZipFile, zipfile.ZipInfo, bytes], None]) -> None:
    """Write the entries of `path` anew, each by `change`."""
    with zipfile.ZipFile(path) as archive:
        entries = [(entry, archive.read(entry)) for entry in archive.infolist()]
    with zipfile.ZipFile(path, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for entry, data in entries:
            change(archive, entry, data)
