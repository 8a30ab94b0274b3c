"""What every buffer of conf/buffer must do; a new one is covered when its file is there."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kit import assert_same
from omegaconf import OmegaConf
from torch import Tensor

from perdure.buffers.base import Buffer
from perdure.config.build import build
from perdure.config.compose import register
from perdure.errors import UserError

MakeFields = Callable[..., dict[str, Tensor]]

register()  # the resolver of published values
FOLDER = Path(__file__).parents[2] / "conf" / "buffer"


def node(path: Path) -> dict[str, Any]:
    around = OmegaConf.create({"dataset": {"batch_size": 6}, "buffer": OmegaConf.load(path)})
    plain: dict[str, Any] = OmegaConf.to_container(around, resolve=True)["buffer"]  # type: ignore[index, call-overload, assignment]
    return plain


NODES = {path.stem: node(path) for path in sorted(FOLDER.glob("*.yaml"))}
BUFFERS = {name: options for name, options in NODES.items() if "_target_" in options}
every_buffer = pytest.mark.parametrize("options", BUFFERS.values(), ids=BUFFERS)


def test_the_folder_was_found() -> None:
    assert {"none", "reservoir", "class-balanced"} <= set(NODES)
    assert NODES["none"]["size"] == 0
    assert NODES["none"].keys() >= {"size", "batch_size"}


CLASSES, TASKS = 4, 8


def make(options: dict[str, Any], size: int) -> Buffer:
    policy = build({**options, "size": size}, "buffer", n_classes=CLASSES, n_tasks=TASKS)
    return Buffer(policy)


streams = st.tuples(
    st.integers(0, 2**32),
    st.integers(TASKS, 24),
    st.lists(st.integers(1, 8) | st.integers(9, 60), min_size=1, max_size=TASKS),
)
"""A seed, a size that has a place for each class and task, and batches, each a task of its own."""


class RandomCosines:
    """Gradients of `n` examples whose cosines follow from a key."""

    def __init__(self, n: int, key: tuple[int, ...]) -> None:
        self.n = n
        self.key = key

    def cosines(self, slots: np.ndarray) -> np.ndarray:
        of_rows = np.random.default_rng(self.key).uniform(-1, 1, (self.n, 1))
        return np.asarray(np.tanh(of_rows - np.sin(slots)))


def information(n: int, *key: int) -> dict[str, Any]:
    """All that a policy can need of `n` examples."""
    generator = np.random.default_rng(key)
    features = torch.from_numpy(generator.random((n, 3)))
    losses = generator.exponential(size=n)
    return {"features": features, "losses": losses, "gradients": RandomCosines(n, key)}


def offer(
    buffer: Buffer, make_fields: MakeFields, seed: int, batches: list[int], skip: int = 0
) -> None:
    """Batches of examples that are numbered from 1, labels by number; the first `skip` not."""
    start = 1
    for i, n in enumerate(batches):
        numbers = np.arange(start, start + n)
        labels = numbers * 7919 % 11 % 4
        if i >= skip:
            info = information(n, seed, i)
            numbers_of = np.random.default_rng((seed, i))
            buffer.add(make_fields(numbers, labels), labels, numbers_of, i, info)
        start += n


@every_buffer
@settings(deadline=None, max_examples=50)
@given(stream=streams)
def test_holds_only_what_was_offered_each_once(
    make_fields: MakeFields, options: dict[str, Any], stream: tuple[int, int, list[int]]
) -> None:
    seed, size, batches = stream
    buffer = make(options, size)
    offer(buffer, make_fields, seed, batches)
    held = buffer.contents()
    numbers = held["id"].numpy()
    assert 1 <= len(buffer) <= size
    assert buffer.seen == sum(batches)
    assert len(set(numbers.tolist())) == len(numbers) == len(buffer)
    assert numbers.min() >= 1
    assert numbers.max() <= sum(batches)
    expected_fields = make_fields(numbers, numbers * 7919 % 11 % 4)
    assert all(torch.equal(held[key], expected_fields[key]) for key in expected_fields)
    assert all(held[key].dtype == expected_fields[key].dtype for key in expected_fields)


@every_buffer
@settings(deadline=None, max_examples=50)
@given(stream=streams, cut=st.integers(0, 7))
def test_a_loaded_buffer_continues_as_if_nothing_had_happened(
    make_fields: MakeFields,
    options: dict[str, Any],
    stream: tuple[int, int, list[int]],
    cut: int,
) -> None:
    """Through a file that holds nothing but plain values and tensors."""
    seed, size, batches = stream
    straight, stopped, resumed = (make(options, size) for _ in range(3))
    offer(straight, make_fields, seed, batches)
    offer(stopped, make_fields, seed, batches[:cut])
    file = io.BytesIO()
    torch.save(stopped.state_dict(), file)
    file.seek(0)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    offer(resumed, make_fields, seed, batches, skip=cut)
    assert (len(resumed), resumed.seen) == (len(straight), straight.seen)
    draws = [b.draw(5, np.random.default_rng(seed)) for b in (straight, resumed)]
    assert_same(*draws)
    assert_same(straight.state_dict(), resumed.state_dict())


@every_buffer
def test_an_empty_batch_changes_nothing(make_fields: MakeFields, options: dict[str, Any]) -> None:
    buffer, nothing = make(options, TASKS), np.zeros(0, dtype=np.int64)
    info = information(0)
    buffer.add(make_fields(nothing, nothing), nothing, np.random.default_rng(0), info=info)
    assert (len(buffer), buffer.seen) == (0, 0)
    offer(buffer, make_fields, 0, [9])
    before = buffer.contents()["id"].tolist()
    buffer.add(make_fields(nothing, nothing), nothing, np.random.default_rng(0), info=info)
    assert buffer.contents()["id"].tolist() == before


@pytest.mark.parametrize("name", BUFFERS)
def test_the_config_file_builds_it_as_it_is(name: str) -> None:
    buffer = make(BUFFERS[name], BUFFERS[name]["size"])
    assert (buffer.size, buffer.batch_size) == (BUFFERS[name]["size"], 6)
    assert buffer.policy.name == name


@every_buffer
@settings(deadline=None, max_examples=30)
@given(stream=streams, other=st.integers(TASKS, 24))
def test_one_of_another_size_takes_over_its_examples(
    make_fields: MakeFields,
    options: dict[str, Any],
    stream: tuple[int, int, list[int]],
    other: int,
) -> None:
    """Whole examples, each once, within the new size; a policy with tasks knows them still."""
    seed, size, batches = stream
    before, buffer = make(options, size), make(options, other)
    offer(before, make_fields, seed, batches)
    buffer.adopt(before.state_dict(), np.random.default_rng(seed))
    held, old = buffer.contents(), before.contents()
    assert 1 <= len(buffer) <= other
    assert buffer.seen == before.seen
    rows = [old["id"].tolist().index(number) for number in held["id"].tolist()]
    assert len(set(rows)) == len(rows)
    assert all(torch.equal(held[key], old[key][rows]) for key in held)
    if size <= other:
        assert set(held["y"].tolist()) == set(old["y"].tolist())


@pytest.mark.parametrize("name", [name for name in BUFFERS if "per_class" in BUFFERS[name]])
def test_a_quota_of_each_class_is_filled_and_kept(make_fields: MakeFields, name: str) -> None:
    """The capacity follows from it; a class with fewer examples leaves its places empty."""
    policy = build({**BUFFERS[name], "per_class": 3}, "buffer", n_classes=CLASSES, n_tasks=TASKS)
    buffer = Buffer(policy)
    assert buffer.size == 3 * CLASSES
    for task, labels in enumerate(([0] * 9 + [1] * 2, [2] * 30, [3] * 5)):
        numbers = np.arange(100 * task, 100 * task + len(labels))
        info = information(len(labels), task)
        y = np.array(labels)
        buffer.add(make_fields(numbers, y), y, np.random.default_rng(0), task, info)
    assert buffer.contents()["y"].bincount().tolist() == [3, 2, 3, 3]
    with pytest.raises(UserError, match=r"^buffer\.per_class=0: must be an integer, 1 or more$"):
        build({**BUFFERS[name], "per_class": 0}, "buffer", n_classes=CLASSES, n_tasks=TASKS)
