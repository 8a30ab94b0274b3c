"""A sweep that cannot work is refused before anything is made."""

from __future__ import annotations

import pytest
from omegaconf import OmegaConf

from perdure.errors import UserError
from perdure.sweeps.preflight import check

pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")


def check_search(**sweeper: object) -> None:
    target = "hydra_plugins.hydra_optuna_sweeper.optuna_sweeper.OptunaSweeper"
    launcher = {"_target_": "hydra_plugins.perdure_launchers.OneProcess"}
    hydra = {"launcher": launcher, "sweeper": {"_target_": target, **sweeper}}
    check(
        OmegaConf.create(
            {"hydra": hydra, "checkpoint": {"load": None, "fork": False, "resume": None}}
        )
    )


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("n_trials", 0, "n_trials=0: must be an integer, 1 or more"),
        ("n_trials", "two", "n_trials=two: must be an integer, 1 or more"),
        ("n_jobs", 0, "n_jobs=0: must be an integer, 1 or more"),
        ("direction", "up", "direction=up: must be maximize or minimize"),
    ],
)
def test_wrong_options_of_a_search(key: str, value: object, sentence: str) -> None:
    with pytest.raises(UserError, match=f"^hydra.sweeper.{sentence}$"):
        check_search(**{key: value})


def test_right_options_of_a_search() -> None:
    check_search(n_trials=3, n_jobs=2, direction="maximize")
    check_search(direction=["maximize", "minimize"])
