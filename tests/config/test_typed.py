"""The typed configuration, and the plain data that are stored of it."""

from __future__ import annotations

import json

import pytest
from omegaconf import OmegaConf
from tiers import cases

import perdure
from perdure.config.folder import options
from perdure.config.schema import OnError, Precision, WandbConfig
from perdure.config.typed import as_plain, typed

GROUPS = ("addon", "backbone", "buffer", "checkpoint", "dataset", "head", "model", "optimizer",
          "scheduler", "tracking", "training")  # fmt: skip
OPTIONS = [f"{group}={option}" for group in GROUPS for option in options(group)]


OFTEN = [next(option for option in OPTIONS if option.startswith(f"{group}=")) for group in GROUPS]


@pytest.mark.parametrize("option", [*cases(OPTIONS, OFTEN), "checkpoint.every={steps: 3}"])
def test_what_is_stored_is_what_was_composed_in_its_order(option: str) -> None:
    config = perdure.compose("timestamp=now", option)
    composed = OmegaConf.to_container(config, resolve=True, enum_to_str=True)
    assert json.dumps(as_plain(typed(config))) == json.dumps(composed)


def test_a_typed_configuration_has_types() -> None:
    config = typed(perdure.compose("tracking=wandb", "tracking.wandb.on_error=raise"))
    assert config.training.precision is Precision.fp32
    assert isinstance(config.tracking.wandb, WandbConfig)
    assert config.tracking.wandb.on_error is OnError["raise"]
    assert type(config.model) is dict
    assert as_plain(config)["tracking"]["wandb"]["on_error"] == "raise"


def test_a_secret_that_an_interpolation_brings_in_is_redacted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MIRROR", "https://me:s3cret@example.org/data?token=s3cret")
    brought_in = "${oc.env:MIRROR}"
    config = perdure.compose(f"output_root={brought_in}", f"+model.mirrors=['{brought_in}']")
    found = typed(config)
    for stored in (repr(found), json.dumps(as_plain(found))):
        assert "s3cret" not in stored
        assert "example.org" in stored
