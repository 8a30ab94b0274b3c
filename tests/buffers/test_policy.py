"""Which policies are refused: what they need cannot be given."""

from __future__ import annotations

from typing import ClassVar

import pytest

from perdure.buffers.base import Buffer
from perdure.buffers.class_balanced import ClassBalancedReservoir
from perdure.buffers.gradient_selection import GradientSelection
from perdure.buffers.greedy_balanced import GreedyBalanced
from perdure.buffers.herding import Herding
from perdure.buffers.loss_aware import LossAware, LossAwareBalanced
from perdure.buffers.policy import check
from perdure.buffers.random_exemplars import RandomExemplars
from perdure.buffers.reservoir import Reservoir
from perdure.buffers.ring import ClassRing, TaskRing
from perdure.errors import UserError


class Clairvoyant(Reservoir):
    needs: ClassVar[tuple[str, ...]] = ("losses", "future")


def test_a_need_that_is_not_known_is_refused_by_name() -> None:
    with pytest.raises(UserError, match=r"^buffer=reservoir: needs future of each example; "):
        check(Clairvoyant(5, 1))


def test_a_policy_of_a_task_s_end_needs_what_is_stored_to_be_computed_then() -> None:
    for policy in (Herding(10, 1), RandomExemplars(10, 1)):
        assert policy.at_task_end
        check(policy)
        check(policy, ("task",))
        check(policy, ("logits",), annotates=True)
        check(policy, ("logits",), stores_each_step=False)
        message = rf"^buffer={policy.name}: is offered examples at a task's end, .* stores logits"
        with pytest.raises(UserError, match=message):
            check(policy, ("logits", "task"))


def test_a_policy_of_steps_is_offered_whatever_is_stored() -> None:
    policies = (
        Reservoir(9, 1), ClassBalancedReservoir(9, 1), GreedyBalanced(9, 1), ClassRing(9, 1, 3),
        TaskRing(9, 1, 3), LossAware(9, 1), LossAwareBalanced(9, 1), GradientSelection(9, 1, 2),
    )  # fmt: skip
    for policy in policies:
        assert not policy.at_task_end
        check(policy, ("logits",))


def test_a_class_that_is_no_policy_is_refused() -> None:
    with pytest.raises(UserError, match=r"^buffer\._target_=.*: must be a class derived from "):
        Buffer(object())  # type: ignore[arg-type]
