"""Replay draws that a method describes one by one: sizes, draws by task, further updates."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.backbones.mlp import MLP
from perdure.buffers.base import Buffer
from perdure.buffers.herding import Herding
from perdure.buffers.policy import StepPolicy
from perdure.buffers.reservoir import Reservoir
from perdure.buffers.ring import ClassRing, TaskRing
from perdure.distributed.process_group import Ranks
from perdure.errors import UserError
from perdure.models.agem import AGEM
from perdure.models.base import Method
from perdure.models.derpp import DERpp
from perdure.models.er import ER
from perdure.models.replay import Replay, method_draws, uses_buffer
from perdure.models.sgd import FineTuning
from perdure.randomness import Streams
from perdure.training.replay import Local, Replicated


class Drawing(Method):
    """Candidates, the whole memory, and some of each earlier task."""

    replays = (Replay(50), Replay(), Replay("all"), Replay(3, "task"), Replay("all", "task"))


class Exemplary(Method):
    keeps_exemplars = True


class Tasks(Method):
    replays = 1
    stored_fields: ClassVar[tuple[str, ...]] = ("task",)


def made(kind: type[Method], policy: StepPolicy, seed: int = 0) -> Replicated:
    method = kind(MLP((1, 2, 2), 10, (3,)))
    return Replicated(Buffer(policy), method, Streams(seed), 10)


def fill(replay: Replicated, tasks: int, n: int = 20) -> None:
    """Examples that are numbered by their labels, `n` of each task."""
    for task in range(tasks):
        for step, y in enumerate(torch.arange(task * n, task * n + n).split(10)):
            at = {"task": task, "step": step}
            replay.add({"raw": raw_of(y), "y": y}, {}, y.numpy(), at)


def raw_of(y: torch.Tensor) -> torch.Tensor:
    return y.to(torch.uint8).view(-1, 1, 1, 1).expand(len(y), 1, 2, 2)


def drawn(replay: Replicated, **at: int) -> list[dict[str, torch.Tensor]]:
    nothing = torch.zeros(0, dtype=torch.int64)
    draws = replay.draw(raw_of(nothing), nothing, at)
    assert all(draw.total == len(draw.fields["y"]) for draw in draws)
    return [draw.fields for draw in draws]


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 999), size=st.integers(5, 60), tasks=st.integers(1, 5))
def test_each_draw_is_what_the_method_describes(seed: int, size: int, tasks: int) -> None:
    replay = made(Drawing, Reservoir(size, 7), seed)
    fill(replay, tasks)
    held = replay.buffer.contents()
    n, current = len(replay.buffer), tasks - 1
    assert held["task"].equal(held["y"] // 20)
    candidates, plain, everything, *by_task = drawn(replay, task=current, step=3)
    assert len(candidates["y"]) == min(50, n)
    assert len(plain["y"]) == min(7, n)
    assert everything["y"].equal(held["y"])
    earlier = sorted({t for t in held["task"].tolist() if t < current})
    some, whole = by_task[: len(earlier)], by_task[len(earlier) :]
    for task, few, each in zip(earlier, some, whole, strict=True):
        mine = held["y"][held["task"] == task]
        assert each["y"].equal(mine)
        assert len(few["y"]) == min(3, len(mine))
        assert set(few["task"].tolist()) == {task}
    for fields in (candidates, plain, everything, *by_task):
        assert len(set(fields["index"].tolist())) == len(fields["index"])
        for key, value in replay.buffer.select(fields["index"]).items():
            assert value.equal(fields[key])


def test_nothing_is_drawn_of_a_memory_without_examples_or_earlier_tasks() -> None:
    replay = made(Drawing, Reservoir(20, 7))
    assert [len(fields["y"]) for fields in drawn(replay)] == [0, 0, 0]
    fill(replay, 1)
    assert [len(fields["y"]) for fields in drawn(replay)] == [20, 7, 20]
    assert len(drawn(replay, task=1)) == 5


class Gem(Method):
    replays = (Replay("all", "task"),)


def test_gem_sees_the_last_examples_of_each_earlier_task() -> None:
    replay = made(Gem, TaskRing(12, 4, 3))
    fill(replay, 3)
    found = [sorted(fields["y"].tolist()) for fields in drawn(replay, task=2)]
    assert found == [[16, 17, 18, 19], [36, 37, 38, 39]]


@pytest.mark.parametrize("kind", [ER, Drawing], ids=["number", "tuple"])
def test_a_further_update_on_a_batch_draws_numbers_of_its_own(kind: type[Method]) -> None:
    """Reproducible ones, and the first are those of a step with one update."""
    replay, again = made(kind, Reservoir(60, 5)), made(kind, Reservoir(60, 5))
    for each in (replay, again):
        fill(each, 3)
    found = []
    for update in range(4):
        at = {"task": 2, "epoch": 1, "step": 70}
        fields = drawn(replay, **at, update=update)
        found.append([each["y"].tolist() for each in fields])
    assert found[0] == [each["y"].tolist() for each in drawn(again, task=2, epoch=1, step=70)]
    later = drawn(again, task=2, epoch=1, step=70, update=3)
    assert found[3] == [each["y"].tolist() for each in later]
    firsts = [tuple(sorted(ys[0])) for ys in found]
    if kind is ER:
        assert len(set(firsts)) == 4
    assert len({tuple(sorted(ys[-1 if kind is ER else 1])) for ys in found}) == 4
    y = torch.arange(10)
    fresh = made(kind, Reservoir(60, 5))
    for _ in range(20):  # more numbers than a step's offers usually take
        many = y.repeat(4)
        fresh.add({"raw": raw_of(many), "y": many}, {}, many.numpy(), {"step": 1, "update": 2})
    assert len(fresh.buffer) == 60


def test_a_number_of_draws_is_that_many_uniform_ones() -> None:
    assert method_draws(DERpp) == (Replay(), Replay())
    assert method_draws(Drawing) == Drawing.replays
    assert method_draws(FineTuning) == ()
    uses = {kind: uses_buffer(kind) for kind in (FineTuning, ER, AGEM, Drawing, Exemplary)}
    assert uses == {FineTuning: False, ER: True, AGEM: True, Drawing: True, Exemplary: True}


def test_draws_of_a_number_have_no_index_and_cost_no_field_more() -> None:
    replay = made(ER, Reservoir(20, 5))
    fill(replay, 2)
    assert drawn(replay, task=1)[0].keys() == {"raw", "y"}
    with pytest.raises(ValueError, match="does not know the tasks"):
        replay.buffer.on_host  # noqa: B018


def test_a_method_that_stores_the_task_is_given_it() -> None:
    replay = made(Tasks, Reservoir(50, 9))
    fill(replay, 3)
    (fields,) = drawn(replay, task=2)
    assert fields["task"].equal(fields["y"] // 20)


def test_tasks_are_known_again_after_loading() -> None:
    replay, loaded = made(Drawing, Reservoir(30, 5)), made(Drawing, Reservoir(30, 5))
    fill(replay, 3)
    loaded.load_state_dict(replay.state_dict(), torch.device("cpu"))
    for each in (replay, loaded):
        y = torch.arange(60, 70)
        each.add({"raw": raw_of(y), "y": y}, {}, y.numpy(), {"task": 3})
    for before, after in zip(drawn(replay, task=3), drawn(loaded, task=3), strict=True):
        assert all(before[key].equal(after[key]) for key in before)
    held, contents = loaded.buffer.on_host, loaded.buffer.contents()
    assert np.array_equal(held.labels, contents["y"].numpy())
    assert np.array_equal(held.tasks, contents["task"].numpy())
    lacking = replay.state_dict()
    del lacking["fields"]["task"]
    with pytest.raises(UserError, match="does not say of which task each example is"):
        loaded.load_state_dict(lacking, torch.device("cpu"))


@pytest.mark.parametrize("size", [0, -1, "some", 2.5], ids=str)
def test_sizes_that_make_no_sense_are_refused(size: Any) -> None:
    with pytest.raises(ValueError, match="1 example or more, or all"):
        Replay(size)


def test_a_grouping_that_is_not_known_is_refused() -> None:
    with pytest.raises(ValueError, match="uniform, by task or by class, not by 'color'"):
        Replay(1, "color")  # type: ignore[arg-type]


def test_parts_of_a_buffer_cannot_serve_what_needs_the_whole() -> None:
    def local(kind: type[Method], policy: Any) -> Local:
        method = kind(MLP((1, 2, 2), 10, (3,)))
        return Local(Buffer(policy), method, Streams(0), 10, Ranks(0, 2), 2)

    assert local(ER, Reservoir(20, 5)).buffer.size == 10
    with pytest.raises(UserError, match=r"^training\.replay_sync=local: Drawing draws by"):
        local(Drawing, Reservoir(20, 5))
    for policy in (ClassRing(20, 5, 10), Herding(20, 5)):
        with pytest.raises(UserError, match=rf"replay_sync=local with buffer={policy.name}: which"):
            local(ER, policy)


class Classes(Method):
    """Two examples of each class, then one of each earlier task."""

    replays = (Replay(2, "class"), Replay(1, "task"))


def test_a_draw_by_class_has_each_class_that_is_held() -> None:
    """Of the current task too, ascending, whatever the order of their slots."""
    replay = made(Classes, Reservoir(40, 7))
    labels = torch.tensor([5, 3, 3, 9, 5, 3, 5, 9, 3, 5])
    for task in (0, 1):
        replay.add({"raw": raw_of(labels), "y": labels}, {}, labels.numpy(), {"task": task})
    for step in range(20):
        three, five, nine, first_task = drawn(replay, task=1, step=step)
        assert [part["y"].tolist() for part in (three, five, nine)] == [[3, 3], [5, 5], [9, 9]]
        assert all(len(set(part["index"].tolist())) == 2 for part in (three, five, nine))
        assert first_task["task"].tolist() == [0]
    seven = torch.full((1,), 7)
    replay.add({"raw": raw_of(seven), "y": seven}, {}, seven.numpy(), {"task": 2})
    assert [part["y"][0].item() for part in drawn(replay, task=2, step=0)[:4]] == [3, 5, 7, 9]
