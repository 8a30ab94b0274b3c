"""The linear correction of some classes' scores."""

from __future__ import annotations

import torch

from perdure.models.correction import Correction


def test_only_its_classes_are_mapped_and_it_learns_when_it_should() -> None:
    correction, scores = Correction([1, 4], 5), torch.randn(6, 5)
    assert torch.equal(correction(scores, learns=True), scores)
    with torch.no_grad():
        correction.alpha.fill_(0.5)
        correction.beta.fill_(-2.0)
    expected = scores.clone()
    expected[:, [1, 4]] = 0.5 * scores[:, [1, 4]] - 2
    torch.testing.assert_close(correction(scores, learns=True), expected)
    assert not correction(scores, learns=False).requires_grad
    correction(scores, learns=True).sum().backward()
    assert correction.beta.grad is not None
    assert correction.beta.grad.item() == 12
    assert set(correction.state_dict()) == {"alpha", "beta"}
