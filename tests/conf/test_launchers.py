"""Every launcher, sweeper and search composes, and names something that can be built."""

from __future__ import annotations

import pytest
from hydra import compose
from hydra.core.plugins import Plugins
from omegaconf import OmegaConf

from perdure.config.compose import configuration
from perdure.config.folder import CONF
from perdure.config.validation import validate

LAUNCHERS = sorted(path.stem for path in (CONF / "hydra" / "launcher").glob("*.yaml"))
SEARCHES = sorted(path.stem for path in (CONF / "search").glob("*.yaml"))


@pytest.mark.parametrize("name", LAUNCHERS)
def test_a_launcher_can_be_built(name: str) -> None:
    with configuration():
        overrides = [f"hydra/launcher={name}", "hydra.sweep.dir=x"]
        config = compose("train", overrides=overrides, return_hydra_config=True)
        Plugins.instance()._instantiate(config.hydra.launcher)


@pytest.mark.parametrize("overrides", [[], ["hydra/launcher=basic"]], ids=["default", "basic"])
def test_the_default_launcher_is_one_process(overrides: list[str]) -> None:
    with configuration():
        config = compose("train", overrides=overrides, return_hydra_config=True)
    assert config.hydra.launcher._target_.endswith("perdure_launchers.OneProcess")


def test_optuna_maximises_from_a_seed() -> None:
    with configuration():
        config = compose("train", overrides=["hydra/sweeper=optuna"], return_hydra_config=True)
    assert config.hydra.sweeper.direction == "maximize"
    assert config.hydra.sweeper.sampler.seed == 0


@pytest.mark.parametrize("name", SEARCHES)
def test_a_search_is_one_on_a_validation_split(name: str) -> None:
    with configuration():
        config = compose("train", overrides=[f"search={name}"], return_hydra_config=True)
        for key in config.hydra.sweeper.params:
            assert OmegaConf.select(config, key) is not None, key
    assert "optuna" in config.hydra.sweeper._target_
    assert 0 < config.dataset.validation < 1
    with configuration():
        validate(compose("train", overrides=[f"search={name}"]))
