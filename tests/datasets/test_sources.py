"""What all sources have in common."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from perdure.datasets.sources import CIFAR10, CIFAR100, MNIST, FashionMNIST, Source
from perdure.errors import UserError

pytestmark = pytest.mark.usefixtures("offline")


@pytest.mark.parametrize("source", [FashionMNIST, CIFAR10, CIFAR100], ids=lambda s: s.name)
def test_without_a_network_one_sentence_says_what_to_do(
    source: type[CIFAR10 | CIFAR100 | FashionMNIST], tmp_path: Path
) -> None:
    with pytest.raises(UserError) as caught:
        source().load(tmp_path)
    message = str(caught.value)
    assert f"{source.title} is not in data.root={tmp_path}" in message
    assert "Name or service not known" in message
    assert f"perdure prepare-data dataset={source.benchmark} data.root={tmp_path}" in message
    assert "\n" not in message
    assert not [file for file in tmp_path.rglob("*") if file.is_file()]


@pytest.mark.parametrize("source", [MNIST, FashionMNIST, CIFAR10, CIFAR100], ids=lambda s: s.name)
def test_every_source_keeps_the_contract(source: Callable[[], Source]) -> None:
    built: Source = source()
    assert len(built.shape) == 3
    assert len(built.classes) == built.n_classes == len(set(built.classes))  # type: ignore[attr-defined]
