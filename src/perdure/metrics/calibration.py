"""Calibration: expected calibration error (ECE), reliability diagram, confidence of predictions.

Guo et al. 2017, "On calibration of modern neural networks", section 2: examples are put into M = 15
bins of equal width by their confidence, the largest softmax probability; bin m is ((m - 1)/M, m/M].
ECE = Σ_m |B_m|/n · |acc(B_m) - conf(B_m)|, with acc the part of a bin's examples that were
recognized and conf their mean confidence.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

N_BINS = 15


class Calibration:
    """Confidence and accuracy of predictions by bin, summed on the device.

    Args:
        device: where the predictions are.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self._n = torch.zeros(N_BINS, dtype=torch.float64, device=device)
        self._correct = torch.zeros_like(self._n)
        self._confidence = torch.zeros_like(self._n)

    def add(self, scores: Tensor, target: Tensor) -> None:
        """Take in scores [B, C] whose softmax is over all C, and true classes int64 [B]."""
        confidence, choice = scores.double().softmax(1).max(1)
        bins = (confidence * N_BINS).ceil().long().sub(1).clamp(0, N_BINS - 1)
        for sums, values in (
            (self._n, torch.ones_like(confidence)),
            (self._correct, (choice == target).double()),
            (self._confidence, confidence),
        ):
            sums.index_add_(0, bins, values)

    def __add__(self, other: Calibration) -> Calibration:
        both = Calibration(self._n.device)
        both._n = self._n + other._n
        both._correct = self._correct + other._correct
        both._confidence = self._confidence + other._confidence
        return both

    def error(self) -> float | None:
        """The expected calibration error, a fraction; None without examples."""
        n = float(self._n.sum())
        return float((self._correct - self._confidence).abs().sum()) / n if n else None

    def as_json(self) -> dict[str, Any]:
        """The error and the bins (a reliability diagram); None for the means of an empty bin."""
        columns = (self._n.tolist(), self._correct.tolist(), self._confidence.tolist())
        bins = [
            {
                "above": m / N_BINS,
                "up_to": (m + 1) / N_BINS,
                "examples": int(n),
                "accuracy": correct / n if n else None,
                "confidence": confidence / n if n else None,
            }
            for m, (n, correct, confidence) in enumerate(zip(*columns, strict=True))
        ]
        return {"expected_calibration_error": self.error(), "bins": bins}
