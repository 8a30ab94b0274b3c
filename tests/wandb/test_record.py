"""wandb.json: which W&B run mirrors a folder."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from perdure.wandb import record
from perdure.wandb.record import Record, new_id


def test_it_is_read_as_it_was_saved(tmp_path: Path) -> None:
    saved = Record(
        "20261122-072200-3f9a",
        "cl",
        entity="team",
        tags=["a"],
        config={"buffer_size": 500},
        inputs=["team/cl/ckpt-other:v1"],
        sent=[{"sha256": "ab" * 32, "artifact": "team/cl/ckpt:v0", "aliases": ["latest"]}],
    )
    saved.save(tmp_path)
    assert record.load(tmp_path) == saved


def test_keys_of_another_version_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / record.NAME).write_text(json.dumps({"id": "i", "project": "p", "later": 1}))
    assert record.load(tmp_path) == Record("i", "p")


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(None, id="absent"),
        pytest.param("", id="empty"),
        pytest.param('{"id": "i", "proj', id="torn"),
        pytest.param('{"id": "i"}', id="no-project"),
        pytest.param("[1]", id="a-list"),
    ],
)
def test_what_is_no_record_is_none(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / record.NAME).write_text(text)
    assert record.load(tmp_path) is None


def test_the_last_artifact_of_a_state_is_its_artifact() -> None:
    sent = [{"sha256": s, "artifact": a} for s, a in (("x", "c:v0"), ("y", "c:v1"), ("x", "c:v2"))]
    known = Record("i", "p", sent=sent)
    assert known.artifact_of("x") == "c:v2"
    assert known.artifact_of("z") is None


def test_ids_tell_apart_the_jobs_and_the_sweeps_of_one_second() -> None:
    ids = {new_id("20261122-072200", job) for job in (None, "0", "1") for _ in range(8)}
    assert len(ids) > 20
    assert all(re.fullmatch(r"20261122-072200(-[01])?-[0-9a-f]{4}", one) for one in ids)
