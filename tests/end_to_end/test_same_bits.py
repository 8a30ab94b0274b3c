"""Short seeded runs end as they were recorded, to the bit where that was on such a machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from bits import RECORD, SETTINGS, key, measure

KNOWN: dict[str, Any] = json.loads(RECORD.read_text())
ACCURACY, LOSS = 0.05, 0.05
"""How far another processor or torch may round a few dozen steps: absolute, relative."""


def test_every_setting_is_recorded_and_no_other() -> None:
    assert set(KNOWN) == set(SETTINGS)


@pytest.mark.parametrize("setting", SETTINGS)
def test_the_same_bits(tmp_path: Path, setting: str) -> None:
    known, found = KNOWN[setting], measure(setting, tmp_path / "run")
    if key() in known["bits"]:
        bits, now = known["bits"][key()], found["bits"]
        assert now["weights"] == bits["weights"]
        # More may come to be kept; what was must be there with the same bits.
        assert set(bits["state"]) <= set(now["state"])
        assert {name: now["results"].get(name) for name in bits["results"]} == bits["results"]
        assert now["losses"] == bits["losses"]
    assert found["rounded"]["loss"] == pytest.approx(known["rounded"]["loss"], rel=LOSS)
    assert found["rounded"]["accuracy"].keys() == known["rounded"]["accuracy"].keys()
    for kind, matrix in known["rounded"]["accuracy"].items():
        for now, before in zip(found["rounded"]["accuracy"][kind], matrix, strict=True):
            assert now == pytest.approx(before, abs=ACCURACY)
