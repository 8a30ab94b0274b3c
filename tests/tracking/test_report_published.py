"""The published row that a configuration matches, from the tables that are in conf/."""

from __future__ import annotations

from typing import Any

import pytest
from omegaconf import OmegaConf

from perdure.config.compose import compose
from perdure.tracking.report_published import Measured, choice_of, published_section


def config_of(*words: str) -> dict[str, Any]:
    config = compose("model=er", "dataset=seq-mnist", "buffer.size=500", *words)
    plain: Any = OmegaConf.to_container(config, resolve=True, enum_to_str=True)
    return dict(plain)


def test_a_matching_row_stands_beside_the_measured_numbers() -> None:
    choice = choice_of(config_of())
    assert choice.setting is not None
    assert choice.setting.name == "dark-experience/seq-mnist/er-500"
    figure = next(f for f in choice.setting.row.figures if f.metric == "average_accuracy.class_il")
    html = published_section(choice, {figure.metric: Measured(figure.mean / 100 + 0.01, 0.02, 3)})
    assert "dark-experience/seq-mnist/er-500: Buzzega et al. 2020" in html
    assert f"<td>{figure.mean + 1:.2f} ± 2.00 (3 runs)</td><td>+1.00</td>" in html
    assert published_section(choice, {}) == ""  # nothing of it was measured


def test_another_protocol_matches_nothing() -> None:
    choice = choice_of(config_of("dataset.iterations=60"))
    assert choice.setting is None
    assert published_section(choice, {"average_accuracy.class_il": Measured(0.5, None, 1)}) == ""


@pytest.mark.parametrize(
    "config", [{}, {"model": 3}, {"model": {"name": "er"}, "recipe": "auto"}, {"a": "${oc.env:X}"}],
    ids=str,
)  # fmt: skip
def test_a_configuration_of_no_run_matches_nothing(
    config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("X", "secret")
    choice = choice_of(config)
    assert choice.setting is None
    assert "secret" not in choice.reason
