"""Which keys may change when a run is resumed: those of recording and probing may."""

from __future__ import annotations

import pytest

import perdure
from perdure.config.compare import changes
from perdure.config.typed import as_plain, typed
from perdure.config.validation import validate
from perdure.errors import UserError


def test_what_is_recorded_may_change() -> None:
    before = as_plain(typed(perdure.compose("timestamp=now")))
    words = ("evaluation.records=false", "evaluation.probe_every=null", "evaluation.probe_size=7")
    now = as_plain(typed(perdure.compose("timestamp=now", *words)))
    assert now["evaluation"] != before["evaluation"]
    assert changes(now, before) == []
    older = {key: value for key, value in before.items() if key != "evaluation"}
    assert changes(now, older) == []
    other = as_plain(typed(perdure.compose("timestamp=now", "training.updates=2")))
    assert [change.key for change in changes(other, before)] == ["training.updates"]


@pytest.mark.parametrize(
    "word",
    ["records_bytes=0", "probe_every=0", "probe_size=-1", "first_batches=-1"],
)
def test_out_of_range(word: str) -> None:
    with pytest.raises(UserError, match=rf"evaluation\.{word}: must be an integer, [01] or more"):
        validate(perdure.compose(f"evaluation.{word}"))
    validate(perdure.compose("evaluation.first_batches=0", "evaluation.probe_every=1"))
