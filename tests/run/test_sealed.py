"""Sealed data sources: what a process may not load, by any name of its class."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from process import train_in

from perdure.config.typed import typed
from perdure.datasets.sources import CIFAR10, MNIST
from perdure.errors import UserError
from perdure.run import sealed
from perdure.run.api import compose
from perdure.run.assemble import choose_device, make_benchmark

MNIST_TARGET = "perdure.datasets.sources.MNIST"
OTHER_NAME = "perdure.datasets.sources.mnist.MNIST"


class Mine(MNIST):
    """A subclass of what is sealed."""


def made() -> Any:
    """A function that makes what is sealed."""
    return MNIST()


class Apart:
    """A source of its own."""


def build(monkeypatch: pytest.MonkeyPatch, listed: str, target: str) -> Any:
    monkeypatch.setenv(sealed.VARIABLE, listed)
    return sealed.build_source({"_target_": target})


@pytest.mark.parametrize(
    "target", [MNIST_TARGET, OTHER_NAME, f"{__name__}.Mine", f"{__name__}.made"]
)
def test_a_sealed_source_is_refused(monkeypatch: pytest.MonkeyPatch, target: str) -> None:
    with pytest.raises(UserError, match=f"^dataset.source._target_={target}: .* is sealed"):
        build(monkeypatch, MNIST_TARGET, target)
    with pytest.raises(UserError, match="is sealed"):
        build(monkeypatch, f"perdure.datasets.sources.CIFAR10,{OTHER_NAME}", target)


def test_a_sealed_function_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="is sealed"):
        build(monkeypatch, f"{__name__}.made", f"{__name__}.made")


def test_others_are_built(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(build(monkeypatch, MNIST_TARGET, f"{__name__}.Apart"), Apart)
    siblings = build(
        monkeypatch, "perdure.datasets.sources.CIFAR100", "perdure.datasets.sources.CIFAR10"
    )
    assert isinstance(siblings, CIFAR10)
    assert isinstance(build(monkeypatch, "", MNIST_TARGET), MNIST)


def test_what_cannot_be_imported_seals_all(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="cannot be imported"):
        build(monkeypatch, "no.such.Source", MNIST_TARGET)


def test_a_child_of_a_sealed_process_is_sealed_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(sealed.VARIABLE, raising=False)
    assert sealed.sealing([]) == {}
    assert sealed.sealing(["a.B"]) == {sealed.VARIABLE: "a.B"}
    monkeypatch.setenv(sealed.VARIABLE, "c.D")
    assert sealed.sealing(["a.B", "c.D"]) == {sealed.VARIABLE: "c.D,a.B"}


def test_a_benchmark_is_not_made_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    config = typed(compose("dataset=seq-mnist"))

    def load(*arguments: Any) -> None:
        raise AssertionError("loaded")

    monkeypatch.setattr(MNIST, "load", load)
    monkeypatch.setenv(sealed.VARIABLE, MNIST_TARGET)
    with pytest.raises(UserError, match="is sealed"):
        make_benchmark(config, choose_device("cpu"))


@pytest.mark.process
def test_a_real_process_ends_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from perdure.datasets.sources.mnist import MNIST\n\n\nclass Mine(MNIST):\n    pass\n"
    )
    words = ("dataset=seq-mnist", "dataset.source._target_=mine.Mine", "hydra.run.dir=run")
    env = {sealed.VARIABLE: MNIST_TARGET, "PYTHONPATH": f"{tmp_path}:{_source()}"}
    done = train_in(tmp_path, "model=sgd", *words, env=env)
    assert done.returncode == 2
    assert done.stderr == (
        f"perdure: dataset.source._target_=mine.Mine: {MNIST_TARGET} is sealed while "
        f"hyperparameters are tuned ({sealed.VARIABLE}); must be another data source\n"
    )


def _source() -> Path:
    return Path(sealed.__file__).parents[2]
