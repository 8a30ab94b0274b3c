"""Safe loading (`torch.load`, weights_only) of untrusted checkpoints: the one way to open a file.

Nothing in a file is run, whatever its origin. It is read only when its entries are stored as they
are (a compressed one of 200 KB can unfold to 200 MB), lie apart from each other, and all their
CRC-32 checksums fit; `torch.load(weights_only=True)` then builds tensors and plain values, and
refuses everything else. What it still lets through is taken out here: the functions that it may
call, left as values; attributes put on tensors and dictionaries; nesting and numbers beyond any
checkpoint's. A sidecar spares a file none of these checks.

The format of torch before 1.6 is refused: it has no checksums, so of 300 such files with one bit
flipped 294 load, and hold wrong numbers without an error.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import pickletools
import re
import struct
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from perdure.checkpoint.core.aliases import without_aliases
from perdure.errors import UserError
from perdure.io.files import digest_of, open_plain

LIMIT = 8 * 2**30
"""Bytes that a file may have, and the tensors in it; `checkpoint.max_gigabytes` sets another."""

MOST_VALUES = 2_000_000
_DEEPEST = 50
_MOST_BITS = 1024
_BLOCK = 1 << 20
_GLOBAL = re.compile(r"GLOBAL ([\w.]+)")
_FOLDER = 0x10  # torch would read such an entry as empty, and fill its tensor with anything
_ENCRYPTED, _UTF8 = 0x1, 0x800
_LOCAL = struct.Struct("<4s22xHH")
_OLD_TORCH = b"\x80\x02\x8a\x0a"
_ATOMS = (str, bytes, bool, int, float, complex, type(None), torch.dtype, torch.device)
_ACCEPTED = "a checkpoint of state dictionaries, numbers, text, lists and dictionaries is accepted"


class DamagedError(UserError):
    """A checkpoint whose bytes are not the ones that were written."""


class TooLargeError(UserError):
    """The file, or what is in it, is above the limit; it may be whole."""


def load(
    path: Path, limit: int = LIMIT, sha256: str | None = None, *, mapped: bool = False
) -> dict[str, Any]:
    """The dictionary that `torch.save` wrote to `path`, on the host; of ours, without aliases.

    Args:
        path: an ordinary file, or a link to one.
        limit: bytes that the file may have, and its tensors together.
        sha256: the SHA-256 that the file must have, in hex; None accepts any.
        mapped: leave the tensors in the file until they are read (mmap).

    Raises:
        DamagedError: the content is not what was written.
        TooLargeError: it is above the limit.
        UserError: it cannot be read, is no file of `torch.save`, demands that code is run, or holds
            more than tensors and plain values.
    """
    try:
        with open_plain(path) as file:
            _check(path, file, limit, sha256)
            file.seek(0)
            source = path if mapped else file
            content = torch.load(source, map_location="cpu", weights_only=True, mmap=mapped)
        if not isinstance(content, dict):
            found = type(content).__name__
            raise UserError(f"{path}: holds a {found}, not a dictionary of tensors")
        plain: dict[str, Any] = _Plain(path, limit).dictionary(without_aliases(content))
    except UserError:
        raise
    except pickle.UnpicklingError as error:
        name = _GLOBAL.search(str(error))
        what = f"it asks for {name[1]}" if name else "it holds more than tensors and plain values"
        raise UserError(
            f"{path}: refused, and nothing in it was run: {what}; {_ACCEPTED}"
        ) from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None
    except Exception as error:  # torch.load has no error of its own
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise DamagedError(f"{path}: damaged ({reason})") from None
    return plain


# --- the archive ------------------------------------------------------------------------------


def _check(path: Path, file: BinaryIO, limit: int, sha256: str | None) -> None:
    """Refuse, before anything is loaded, an archive that is not valid or not stored as is."""
    size = os.fstat(file.fileno()).st_size
    _require_size(path, size, limit)
    try:
        _check_archive(path, file, size, sha256)
    except UserError:
        file.seek(0)
        # That the hash does not fit is the more helpful error.
        if sha256 is not None and digest_of(file) != sha256:
            raise _damaged(path) from None
        raise


def _check_archive(path: Path, file: BinaryIO, size: int, sha256: str | None) -> None:
    start = file.read(4)
    if start != b"PK\x03\x04":
        raise UserError(f"{path}: {_words_for(start, path)}")
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            _check_entries(path, entries, bool(archive.comment))
            spans = _spans(path, file, entries, size)
            digest = _check_bytes(path, file, spans, sha256 is not None)
            if digest != sha256:
                raise _damaged(path)
            for entry in entries:
                if entry.filename.endswith("/data.pkl"):
                    with archive.open(entry) as program:
                        _check_program(path, program)
    except (zipfile.BadZipFile, EOFError, RuntimeError, ValueError, struct.error) as error:
        raise DamagedError(f"{path}: damaged or cut short ({error})") from None


def _damaged(path: Path) -> DamagedError:
    return DamagedError(f"{path}: damaged (its SHA-256 is not the one in its sidecar)")


def _check_entries(path: Path, entries: list[zipfile.ZipInfo], comment: bool) -> None:
    names = {entry.filename.lower() for entry in entries}  # torch finds them in either case
    if any(name.endswith("/constants.pkl") for name in names):
        raise UserError(f"{path}: refused: a TorchScript program; its state_dict() is accepted")
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise UserError(f"{path}: refused: compressed, which torch.save never does")
    if len(names) < len(entries):
        raise UserError(f"{path}: refused: its entries overlap")
    if not any(name.endswith("/data.pkl") for name in names):
        raise UserError(f"{path}: no file that torch.save wrote")
    if any(entry.external_attr & _FOLDER for entry in entries):
        raise DamagedError(f"{path}: damaged (a part of it is marked as a folder)")
    if comment or any(entry.flag_bits & _ENCRYPTED for entry in entries):
        raise UserError(
            f"{path}: refused: encrypted or with a comment, which torch.save never does"
        )


def _spans(
    path: Path, file: BinaryIO, entries: list[zipfile.ZipInfo], size: int
) -> list[tuple[int, int, zipfile.ZipInfo]]:
    """Where the bytes of each entry begin and end, in the order of the file."""
    spans, free = [], 0
    for entry in sorted(entries, key=lambda entry: entry.header_offset):
        file.seek(entry.header_offset)
        mark, n_name, n_extra = _LOCAL.unpack(file.read(_LOCAL.size))
        name = file.read(n_name)
        codec = "utf-8" if entry.flag_bits & _UTF8 else "cp437"
        if mark != b"PK\x03\x04" or name.decode(codec) != entry.orig_filename:
            raise DamagedError(f"{path}: damaged or cut short (a part is not where it should be)")
        start = entry.header_offset + _LOCAL.size + n_name + n_extra
        end = start + entry.file_size
        if entry.header_offset < free or entry.compress_size != entry.file_size or end > size:
            raise UserError(f"{path}: refused: its entries overlap")
        spans.append((start, end, entry))
        free = end
    if spans[0][2].header_offset != 0:
        raise UserError(f"{path}: refused: it begins with something else than torch.save writes")
    return spans


def _check_bytes(
    path: Path, file: BinaryIO, spans: list[tuple[int, int, zipfile.ZipInfo]], hashed: bool
) -> str | None:
    """Read the file once: the CRC-32 of each entry must fit; returns its SHA-256 if `hashed`."""
    digest = hashlib.sha256() if hashed else None
    file.seek(0)
    at = 0
    for start, end, entry in spans:
        if digest is not None:
            digest.update(file.read(start - at))
        file.seek(start)
        crc = 0
        for block in _blocks(file, end - start):
            crc = zlib.crc32(block, crc)
            if digest is not None:
                digest.update(block)
        if crc != entry.CRC:
            raise DamagedError(
                f"{path}: damaged (the checksum of its part {entry.filename} does not fit)"
            )
        at = end
    if digest is None:
        return None
    for block in iter(lambda: file.read(_BLOCK), b""):
        digest.update(block)
    return digest.hexdigest()


def _blocks(file: BinaryIO, n_bytes: int) -> Iterator[bytes]:
    while n_bytes:
        block = file.read(min(_BLOCK, n_bytes))
        if not block:
            raise EOFError("it ends early")
        n_bytes -= len(block)
        yield block


def _words_for(start: bytes, path: Path) -> str:
    if start == _OLD_TORCH:
        return (
            "written in the format of torch before 1.6, whose damage cannot be seen; if you trust "
            f"it, torch.save(torch.load({path.name!r}, weights_only=True), 'new.pt') makes it one "
            "that is accepted"
        )
    return "no file that torch.save wrote" if start else "is empty"


def _require_size(path: Path, n_bytes: int, limit: int) -> None:
    if n_bytes > limit:
        raise TooLargeError(
            f"{path}: {n_bytes:,} bytes are more than the limit of {limit:,}; "
            "checkpoint.max_gigabytes=… sets another"
        )


# --- the values -------------------------------------------------------------------------------


def _check_program(path: Path, program: Any) -> None:
    """Refuse a pickle of too many values, or of tuples so deep that hashing one ends the process.

    Follows the pickle's instructions and keeps of each value only how many tuples it lies in.
    """
    stack: list[int] = []
    marks: list[int] = []
    memo: dict[int, int] = {}
    argument: Any
    for number, (code, argument, _) in enumerate(pickletools.genops(program)):
        if number >= 10 * MOST_VALUES:
            raise _beyond(path)
        name = code.name
        if name == "MARK":
            marks.append(len(stack))
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        else:
            before, taken = code.stack_before, []
            if pickletools.markobject in before:
                start = marks.pop()
                taken, stack[start:] = stack[start:], []
                before = before[: before.index(pickletools.markobject)]
            for _ in before:
                taken.append(stack.pop())
            depth = 1 + max(taken, default=0) if "TUPLE" in name else 0
            if depth >= _DEEPEST:
                raise _beyond(path)
            stack.extend(depth for _ in code.stack_after)


def _beyond(path: Path) -> UserError:
    return UserError(f"{path}: refused: its values are nested beyond any checkpoint's")


class _Plain:
    """Builds what was loaded anew from tensors and plain values alone, within limits.

    A list that holds another twice, which holds another twice, … and a tensor of stride 0 are
    small until they are walked through or copied.
    """

    def __init__(self, path: Path, limit: int) -> None:
        self.path = path
        self.limit = limit
        self._n_values = self._n_bytes = 0
        self._tensors: dict[int, Tensor] = {}

    def dictionary(self, value: dict[Any, Any], depth: int = 0) -> Any:
        # By the class: an attribute of the instance could stand in the method's place.
        items = dict.items(value)
        pairs = ((self._key(k, depth + 1), self._of(v, depth + 1)) for k, v in items)
        return OrderedDict(pairs) if isinstance(value, OrderedDict) else dict(pairs)

    def _of(self, value: Any, depth: int) -> Any:
        self._n_values += 1
        if self._n_values > MOST_VALUES or depth >= _DEEPEST:
            raise _beyond(self.path)
        if isinstance(value, Tensor):
            return self._tensor(value)
        if isinstance(value, dict):
            return self.dictionary(value, depth)
        if isinstance(value, torch.Size):
            return value
        if isinstance(value, list | tuple | set):
            return type(value)(self._of(inner, depth + 1) for inner in value)
        if isinstance(value, _ATOMS):
            return self._atom(value)
        if isinstance(value, bytearray):
            return self._atom(bytes(value))
        raise UserError(
            f"{self.path}: refused, and nothing in it was run: it holds {value!r:.80} where a "
            f"value should be; {_ACCEPTED}"
        )

    def _key(self, value: Any, depth: int) -> Any:
        """Tensors and classes can be hashed too, and name nothing."""
        if isinstance(value, tuple):
            return tuple(self._key(inner, depth + 1) for inner in value)
        if isinstance(value, Tensor):
            raise UserError(f"{self.path}: refused: a dictionary in it is keyed by tensors")
        return self._of(value, depth)

    def _atom(self, value: Any) -> Any:
        if isinstance(value, int) and value.bit_length() > _MOST_BITS:
            raise UserError(
                f"{self.path}: refused: an integer in it has more than {_MOST_BITS} bits"
            )
        if isinstance(value, str | bytes):
            self._count(len(value))
        return value

    def _tensor(self, value: Tensor) -> Tensor:
        """The tensor itself, without gradient, hooks and attributes; the same one each time."""
        if id(value) not in self._tensors:
            self._tensors[id(value)] = Tensor.detach(value)
        bare = self._tensors[id(value)]
        self._count(bare.numel() * bare.element_size())
        return bare

    def _count(self, n_bytes: int) -> None:
        self._n_bytes += n_bytes
        _require_size(self.path, self._n_bytes, self.limit)
