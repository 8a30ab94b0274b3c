"""The helpers that Catalyst's users know, with the arguments of its documentation."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from perdure import utils
from perdure.errors import UserError


def test_they_are_called_as_catalyst_documents_them(tmp_path: Path) -> None:
    model, criterion = nn.Linear(3, 2), nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters())
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2)
    checkpoint = utils.pack_checkpoint(
        model=model, criterion=criterion, optimizer=optimizer, scheduler=scheduler, epoch=3
    )
    logs = tmp_path / "logs"
    path = utils.save_checkpoint(checkpoint, logdir=str(logs), suffix="my_checkpoint")
    assert path == f"{logs}/my_checkpoint.pth"
    other = nn.Linear(3, 2)
    loaded = utils.load_checkpoint(path=path)
    utils.unpack_checkpoint(
        checkpoint=loaded, model=other, criterion=criterion, optimizer=None, scheduler=None
    )
    assert torch.equal(other.weight, model.weight)
    assert loaded["epoch"] == 3
    assert loaded.keys() == {
        "model_state_dict", "criterion_state_dict", "optimizer_state_dict", "scheduler_state_dict",
        "epoch",
    }  # fmt: skip


def test_the_newer_way_to_save(tmp_path: Path) -> None:
    path = utils.save_checkpoint({"x": 1}, tmp_path / "a.pth")
    assert torch.load(path, weights_only=True) == {"x": 1}


@pytest.mark.parametrize(
    "where",
    [{}, {"logdir": "logs"}, {"suffix": "x"}, {"path": "a", "logdir": "logs", "suffix": "x"}],
    ids=["none", "folder", "name", "both"],
)
def test_one_place_must_be_named(where: dict[str, str]) -> None:
    with pytest.raises(UserError, match="must have a path, or a logdir and a suffix"):
        utils.save_checkpoint({"x": 1}, **where)
