"""Expected calibration error, against bins filled by hand."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from perdure.metrics.calibration import N_BINS, Calibration

answers = st.lists(
    st.tuples(st.lists(st.integers(-40, 40), min_size=3, max_size=3), st.integers(0, 2)),
    min_size=1,
    max_size=60,
)


def of(drawn: list[tuple[list[int], int]]) -> tuple[Tensor, Tensor]:
    return torch.tensor([[s / 8 for s in row] for row, _ in drawn]), torch.tensor(
        [y for _, y in drawn]
    )


def filled(scores: Tensor, target: Tensor) -> Calibration:
    calibration = Calibration()
    calibration.add(scores, target)
    return calibration


@settings(deadline=None)
@given(answers)
def test_bins_are_those_filled_by_hand(drawn: list[tuple[list[int], int]]) -> None:
    scores, target = of(drawn)
    bins: list[list[tuple[float, bool]]] = [[] for _ in range(N_BINS)]
    for row, y in zip(scores.double(), target.tolist(), strict=True):
        confidence, choice = row.softmax(0).max(0)
        m = next(m for m in range(N_BINS) if m / N_BINS < confidence <= (m + 1) / N_BINS)
        bins[m].append((float(confidence), int(choice) == y))
    error = 0.0
    found = filled(scores, target).as_json()
    for members, shown in zip(bins, found["bins"], strict=True):
        assert shown["examples"] == len(members)
        if members:
            accuracy = sum(hit for _, hit in members) / len(members)
            confidence = math.fsum(c for c, _ in members) / len(members)
            assert shown["accuracy"] == pytest.approx(accuracy)
            assert shown["confidence"] == pytest.approx(confidence)
            error += len(members) / len(target) * abs(accuracy - confidence)
        else:
            assert shown["accuracy"] is shown["confidence"] is None
    assert found["expected_calibration_error"] == pytest.approx(error, abs=1e-12)


@settings(deadline=None)
@given(answers, st.integers(0, 60))
def test_parts_add_up_to_the_whole(drawn: list[tuple[list[int], int]], at: int) -> None:
    scores, target = of(drawn)
    parts = filled(scores[:at], target[:at]) + filled(scores[at:], target[at:])
    assert parts.error() == pytest.approx(filled(scores, target).error())


def test_sure_and_right_is_calibrated_sure_and_wrong_is_not() -> None:
    sure = torch.tensor([[80.0, 0.0]])
    assert filled(sure, torch.tensor([0])).error() == 0
    assert filled(sure, torch.tensor([1])).error() == 1
    assert Calibration().error() is None
