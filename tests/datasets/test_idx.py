"""The IDX reader: what goes in comes out, and no damage goes unnoticed."""

from __future__ import annotations

import gzip
import hashlib
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from perdure.datasets.idx import decode_idx, read_idx
from perdure.errors import UserError

Writer = Callable[[np.ndarray[Any, Any]], bytes]
quick = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@st.composite
def arrays(draw: st.DrawFn) -> np.ndarray[Any, Any]:
    shape = draw(st.lists(st.integers(1, 5), min_size=1, max_size=4))
    data = draw(st.binary(min_size=int(np.prod(shape)), max_size=int(np.prod(shape))))
    return np.frombuffer(data, np.uint8).reshape(shape)


@quick
@given(array=arrays(), packed=st.booleans())
def test_round_trip(idx_bytes: Writer, array: np.ndarray[Any, Any], packed: bool) -> None:
    data = idx_bytes(array)
    read = decode_idx(gzip.compress(data) if packed else data, "file")
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, array)
    assert read.flags.writeable
    torch.from_numpy(read)  # a warning here is an error of the test run


@quick
@given(array=arrays(), packed=st.booleans(), data=st.data())
def test_any_truncation_is_noticed(
    idx_bytes: Writer, array: np.ndarray[Any, Any], packed: bool, data: st.DataObject
) -> None:
    whole = gzip.compress(idx_bytes(array)) if packed else idx_bytes(array)
    size = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(UserError, match="digits-idx"):
        decode_idx(whole[:size], "digits-idx")


@quick
@given(array=arrays(), data=st.data())
def test_any_other_header_byte_is_noticed(
    idx_bytes: Writer, array: np.ndarray[Any, Any], data: st.DataObject
) -> None:
    whole = bytearray(idx_bytes(array))
    at = data.draw(st.integers(0, 4 + 4 * array.ndim - 1))
    whole[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(UserError, match="digits-idx"):
        decode_idx(bytes(whole), "digits-idx")


@quick
@given(array=arrays(), data=st.data())
def test_a_flipped_bit_of_a_packed_file_never_changes_the_array(
    idx_bytes: Writer, array: np.ndarray[Any, Any], data: st.DataObject
) -> None:
    whole = bytearray(gzip.compress(idx_bytes(array)))
    whole[data.draw(st.integers(0, len(whole) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    read, message = array, "digits-idx"
    try:  # a flip in what gzip does not check, as the time stamp, changes nothing
        read = decode_idx(bytes(whole), "digits-idx")
    except UserError as error:
        message = str(error)
    assert "digits-idx" in message
    np.testing.assert_array_equal(read, array)


@quick
@given(array=arrays(), more=st.binary(min_size=1, max_size=9))
def test_bytes_after_the_end_are_noticed(
    idx_bytes: Writer, array: np.ndarray[Any, Any], more: bytes
) -> None:
    with pytest.raises(UserError, match="digits-idx"):
        decode_idx(idx_bytes(array) + more, "digits-idx")


@quick
@given(noise=st.binary(max_size=40))
def test_noise_is_refused(noise: bytes) -> None:
    assume(not noise.startswith(b"\0\0\x08"))
    with pytest.raises(UserError, match="digits-idx"):
        decode_idx(noise, "digits-idx")


def test_checksum_is_that_of_the_unpacked_contents(tmp_path: Path, idx_bytes: Writer) -> None:
    array = np.arange(6, dtype=np.uint8).reshape(2, 3)
    data = idx_bytes(array)
    path = tmp_path / "a-idx2-ubyte.gz"
    path.write_bytes(gzip.compress(data, 1))
    np.testing.assert_array_equal(read_idx(path, sha256=hashlib.sha256(data).hexdigest()), array)
    with pytest.raises(UserError, match=r"a-idx2-ubyte\.gz is damaged \(its sha256"):
        read_idx(path, sha256="0" * 64)


def test_a_size_in_the_trailer_that_lies_takes_no_memory(idx_bytes: Writer) -> None:
    packed = gzip.compress(idx_bytes(np.zeros(5, np.uint8)))
    tracemalloc.start()
    with pytest.raises(UserError, match="does not unpack"):
        decode_idx(packed[:-4] + b"\xff\xff\xff\xff", "file")
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("path", "what"),
    [
        pytest.param("missing", "missing is damaged .the file is missing", id="missing"),
        pytest.param(".", "cannot be read", id="folder"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path: Path, path: str, what: str) -> None:
    with pytest.raises(UserError, match=what):
        read_idx(tmp_path / path)
