"""The cost of a run in its report: what is held, what was computed, each phase."""

from __future__ import annotations

import re
from typing import Any

import pytest

from perdure.tracking.formatting import operations
from perdure.tracking.report_cost import cost_section

STEP = {"flops": 3_796_000, "forward_passes": 2, "forward_examples": 1200,
        "backward_passes": 1, "backward_examples": 10}  # fmt: skip


def phase(task: int, name: str = "main") -> dict[str, Any]:
    return {"task": task, "phase": name, "data": "task", "steps": 1180, "trained": 11_800,
            "replayed": 0, "step": STEP, "seconds": 61.2, "cpu_seconds": 2.0}  # fmt: skip


def results(*phases: dict[str, Any]) -> dict[str, Any]:
    return {
        "cost": {
            "parameters": {"trainable": 89_610, "frozen": 0, "other_networks": 89_610},
            "bytes": {"trainable": 358_440, "frozen": 0, "other_networks": 358_440,
                      "statistics": 0, "exemplars": 400_000, "total": 1_116_880},
            "exemplars": {"held": 500, "bytes_each": 800},
            "examples": {"trained": 61_994, "replayed": 0},
            "flops": 32_366_572_000,
            "step": STEP,
            "phases": list(phases),
            "clock": {"peak_memory_bytes": 394_129_408},
        }
    }  # fmt: skip


def cells(html: str) -> list[str]:
    return re.findall(r"<t[dh][^>]*>([^<]*)</t[dh]>", html)


def test_what_is_shown() -> None:
    html = cost_section(results(phase(0), phase(1, "<tune>")))
    found = cells(html)
    assert found[:3] == ["held at the end", "number", "bytes"]
    held = found[3 : found.index("computed")]
    assert held == [
        "trained parameters", "89,610", "358.4 kB",
        "other networks: teachers, those of earlier tasks", "89,610", "358.4 kB",
        "exemplars", "500", "400.0 kB",
        "total", "", "1.1 MB",
    ]  # fmt: skip
    assert "32.4 GFLOP" in found
    assert "2 with 1,200 examples" in found
    assert "394.1 MB" in found
    assert found[-7:] == [
        "1: &lt;tune&gt;", "1,180", "11,800", "0", "4.5 GFLOP", "1 min 01 s", "2.0 s",
    ]  # fmt: skip


def test_what_depends_on_the_machine_is_marked() -> None:
    """Reports of a killed and of an undisturbed run are compared without it."""
    html = cost_section(results(phase(0)))
    marked = re.findall(r'<td class="clock">([^<]*)</td>', html)
    assert marked == ["394.1 MB", "1 min 01 s", "2.0 s"]


def test_many_phases_are_folded_or_left_out() -> None:
    assert "<details>" not in cost_section(results(*map(phase, range(10))))
    assert "<details>" in cost_section(results(*map(phase, range(11))))
    assert "task and phase" not in cost_section(results(*map(phase, range(61))))


def test_nothing_is_known() -> None:
    assert cost_section({"cost": None}) == cost_section({}) == ""


@pytest.mark.parametrize(
    ("flops", "shown"),
    [(0, "0 FLOP"), (999, "999 FLOP"), (1e3, "1.0 kFLOP"), (2e12, "2.0 TFLOP"),
     (4e18, "4000.0 PFLOP")],
)  # fmt: skip
def test_operations(flops: float, shown: str) -> None:
    assert operations(flops) == shown
