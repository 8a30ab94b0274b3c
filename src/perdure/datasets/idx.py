"""Reader of the IDX format (MNIST): big-endian sizes, then bytes (yann.lecun.com/exdb/mnist)."""

from __future__ import annotations

import math
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from perdure.datasets.files import DamagedError, check, read_bytes

_GZIP_MAGIC = b"\x1f\x8b"
_GZIP_WBITS = 31  # zlib's code for "with a gzip header and trailer, both checked"
_DEFLATE_MAX_RATIO = 1032
_UNSIGNED_BYTE = 0x08
_MAX_RANK = 4
_PIECE = 1 << 16


def read_idx(path: Path, *, sha256: str | None = None) -> NDArray[np.uint8]:
    """Reads an IDX file of unsigned bytes, plain or gzipped.

    `sha256` is that of the uncompressed contents. Raises UserError with the file's name.
    """
    return decode_idx(read_bytes(path), path, sha256=sha256)


def decode_idx(data: bytes, path: object, *, sha256: str | None = None) -> NDArray[np.uint8]:
    """The array in an IDX file's bytes, writable; `path` is only named in errors (DamagedError)."""
    buffer = _gunzip(data, path) if data.startswith(_GZIP_MAGIC) else _writable(data)
    check(buffer.data, path, sha256=sha256)
    start, sizes = _header(buffer[: 4 + 4 * _MAX_RANK].tobytes(), len(buffer), path)
    array: NDArray[np.uint8] = buffer[start:].reshape(sizes)
    return array


def _writable(data: bytes) -> NDArray[np.uint8]:
    """A copy, since torch must not be handed the read-only memory of `bytes`."""
    buffer: NDArray[np.uint8] = np.frombuffer(data, np.uint8).copy()
    return buffer


def _gunzip(data: bytes, path: object) -> NDArray[np.uint8]:
    """Unpacks piece by piece into writable memory of the right size, which saves a large copy."""
    # The trailer's size may lie: nothing is believed beyond what deflate can reach.
    size = min(int.from_bytes(data[-4:], "little"), _DEFLATE_MAX_RATIO * len(data))
    buffer, filled = np.empty(size, np.uint8), 0
    stream = zlib.decompressobj(_GZIP_WBITS)
    view = memoryview(data)
    try:
        for start in range(0, len(data), _PIECE):
            piece = np.frombuffer(stream.decompress(view[start : start + _PIECE]), np.uint8)
            if filled + len(piece) > size:
                break
            buffer[filled : filled + len(piece)] = piece
            filled += len(piece)
    except zlib.error as error:
        raise DamagedError(path, f"it does not unpack as gzip: {error}") from error
    if not stream.eof or filled != size:
        raise DamagedError(path, "it does not unpack as gzip: it is cut off, or something follows")
    return buffer


def _header(head: bytes, length: int, path: object) -> tuple[int, tuple[int, ...]]:
    """Where the elements start, and the sizes of the dimensions; `length`: of the whole file."""
    rank = head[3] if len(head) > 3 else 0
    start = 4 + 4 * rank
    if head[:3] != bytes((0, 0, _UNSIGNED_BYTE)) or not 1 <= rank <= _MAX_RANK or length < start:
        raise DamagedError(
            path, f"it begins with {head[:4].hex() or 'nothing'}, no IDX header of unsigned bytes"
        )
    sizes = tuple(int.from_bytes(head[at : at + 4], "big") for at in range(4, start, 4))
    elements = math.prod(sizes)
    if not elements or length != start + elements:
        shape = " x ".join(map(str, sizes))
        raise DamagedError(path, f"its header says {shape} bytes, but {length - start} follow")
    return start, sizes
