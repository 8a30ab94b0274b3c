"""Transplanted logits, against loops over examples and classes."""

from __future__ import annotations

import pytest
import torch

from perdure.models.transplant import transplant


@pytest.mark.parametrize("columns", [[], [2, 3], [0, 4]], ids=str)
def test_new_logits_stay_below_the_label_s(columns: list[int]) -> None:
    torch.manual_seed(0)
    old, new = 2 * torch.randn(2, 40, 5, dtype=torch.float64)
    y, mask = torch.arange(40) % 5, torch.zeros(5, dtype=torch.bool)
    mask[columns] = True
    found = transplant(old, new, y, mask, 0.85).tolist()
    kinds = set()
    for was, now, label, row in zip(old.tolist(), new.tolist(), y.tolist(), found, strict=True):
        factor = 1.0
        if columns:
            own, largest = max(0.0, was[label]), max(now[c] for c in columns)
            if largest > own:
                factor = 0.85 * own / largest
            kinds.add((largest > own, was[label] > 0))
        wanted = [factor * now[c] if c in columns else was[c] for c in range(5)]
        assert row == pytest.approx(wanted, rel=1e-9)
    assert len(kinds) == (4 if columns else 0), "all cases occur"


def test_no_logit_turns_its_sign() -> None:
    """With a label's logit below 0 the released factor would make -100 the largest: 85."""
    old, new = torch.tensor([[-1.0, 0.0, 0.0]]), torch.tensor([[0.0, 1.0, -100.0]])
    mask = torch.tensor([False, True, True])
    assert transplant(old, new, torch.tensor([0]), mask, 0.85).tolist() == [[-1.0, 0.0, 0.0]]
