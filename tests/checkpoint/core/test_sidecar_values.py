"""Whatever is beside a checkpoint: a sentence at most, and no file loads that would not without."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.checkpoint.core import archive, ledger, sidecars
from perdure.checkpoint.core import format as files
from perdure.checkpoint.core.cadence import Cadence
from perdure.checkpoint.core.manager import CheckpointManager, Policy
from perdure.checkpoint.interop.foreign import open_file
from perdure.errors import UserError

POSITION = {"task": 0, "epoch": 1, "step": 0, "global_step": 10}
METADATA = {"kind": "epoch", "stage": "task0", "epoch": 1, "position": POSITION, "value": 0.5}
STATE = {"model": {"backbone.w": torch.arange(6.0)}, "position": POSITION}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A committed checkpoint."""
    made = tmp_path / "checkpoints" / "task0.1_full.pth"
    made.parent.mkdir()
    files.write(made, STATE, METADATA)
    return made


def changed_sidecar(path: Path, **changes: Any) -> dict[str, Any]:
    """What the sidecar says, with changes."""
    return {**json.loads(sidecars.path_of(path).read_text()), **changes}


def error_of(path: Path) -> str:
    """The error of every reader of sidecars for this one; none of them accepts it."""
    sentences = []
    for read in (files.read, files.verify, open_file):
        with pytest.raises(UserError) as caught:
            read(path)
        sentences.append(str(caught.value))
    with pytest.raises(UserError):
        files.link(path, path.with_name("other.pth"), {})
    assert ledger.entries(path.parent) == []
    assert not any("\n" in sentence for sentence in sentences)
    return sentences[0]


def linked(place: Path) -> None:
    """To a sidecar that is valid in itself."""
    real = place.with_name("elsewhere")
    place.rename(real)
    place.symlink_to(real)


def replaced(make: Callable[[Path], object]) -> Callable[[Path], None]:
    def change(place: Path) -> None:
        place.unlink()
        make(place)

    return change


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(replaced(lambda p: p.write_bytes(b"")), id="empty"),
        pytest.param(lambda p: p.write_bytes(p.read_bytes()[:40]), id="half"),
        pytest.param(replaced(lambda p: p.write_bytes(b"\xff\xfe\x00")), id="no-text"),
        pytest.param(replaced(lambda p: p.write_text("[" * 100_000)), id="deep-lists"),
        pytest.param(replaced(lambda p: p.write_text('{"a":' * 100_000)), id="deep-objects"),
        pytest.param(lambda p: p.write_bytes(p.read_bytes() + b" " * (1 << 20)), id="large"),
        pytest.param(lambda p: os.truncate(p, 2**30), id="a-gigabyte"),
        pytest.param(linked, id="link"),
        pytest.param(replaced(os.mkfifo), id="pipe"),
        pytest.param(replaced(Path.mkdir), id="folder"),
        pytest.param(replaced(lambda p: p.symlink_to("/dev/zero")), id="device"),
        pytest.param(replaced(lambda p: p.symlink_to(p)), id="loop"),
        pytest.param(replaced(lambda p: p.symlink_to("nowhere")), id="leads-nowhere"),
    ],
)
def test_what_is_no_sidecar_is_refused_without_waiting(
    path: Path, change: Callable[[Path], object]
) -> None:
    change(sidecars.path_of(path))
    assert error_of(path)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("null", id="null"),
        pytest.param("[]", id="list"),
        pytest.param('"sha256"', id="text"),
        pytest.param("7", id="number"),
        pytest.param("NaN", id="nan"),
    ],
)
def test_what_is_no_object_is_refused(path: Path, text: str) -> None:
    sidecars.path_of(path).write_text(text)
    assert "damaged" in error_of(path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("bytes", -1),
        ("bytes", True),
        ("bytes", "12"),
        ("bytes", 1e3),
        ("bytes", 10**400),
        ("bytes", None),
        ("format", True),
        ("format", -1),
        ("format", [1]),
        ("sha256", "0" * 63),
        ("sha256", "A" * 64),
        ("sha256", 7),
        ("sha256", ["0" * 64]),
        ("kind", "best"),
        ("kind", ["task"]),
        ("kind", {}),
        ("stage", "../task0"),
        ("stage", "a\x1b[2J"),
        ("stage", ""),
        ("stage", 0),
        ("epoch", True),
        ("epoch", -1),
        ("epoch", "1"),
        ("position", []),
        ("position", {"task": "0"}),
        ("position", {**POSITION, "global_step": True}),
        ("position", {**POSITION, "global_step": -1}),
        ("position", {**POSITION, "global_step": 2**60}),
        ("position", {**POSITION, "more": 0}),
        ("value", "0.5"),
        ("value", True),
        ("value", [0.5]),
        ("monitor", 3),
        ("monitor", "accuracy\u202e"),
        ("selected_on", "x\n"),
        ("siblings", {}),
        ("siblings", ["x.pth"]),
        ("siblings", [["x.pth"]]),
        ("twins", {}),
        ("twins", ["x.pth"]),
        ("twins", [["x.pth"]]),
    ],
    ids=repr,
)
def test_each_field_has_its_type(path: Path, key: str, value: Any) -> None:
    sidecars.path_of(path).write_text(json.dumps(changed_sidecar(path, **{key: value})))
    assert "damaged" in error_of(path)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda text: text.replace("0.5", "NaN"), id="nan"),
        pytest.param(lambda text: text.replace("0.5", "-Infinity"), id="infinity"),
        pytest.param(lambda text: text.replace("0.5", "1e999"), id="beyond-any-float"),
        pytest.param(lambda text: text.replace("0.5", "9" * 5000), id="beyond-any-int"),
        pytest.param(lambda text: text.replace("{", '{"bytes": 1,', 1), id="twice"),
        pytest.param(lambda text: text.replace('"task0"', r'"\ud800"'), id="half-a-character"),
    ],
)
def test_what_only_some_json_readers_accept_is_refused(
    path: Path, change: Callable[[str], str]
) -> None:
    text = sidecars.path_of(path).read_text()
    changed = change(text)
    assert changed != text
    sidecars.path_of(path).write_text(changed)
    assert "damaged" in error_of(path)


@pytest.mark.parametrize("key", ["format", "bytes", "sha256"])
def test_a_sidecar_without_its_proof_is_none(path: Path, key: str) -> None:
    metadata = changed_sidecar(path)
    del metadata[key]
    sidecars.path_of(path).write_text(json.dumps(metadata))
    assert "no sidecar" in error_of(path)


def test_what_is_not_known_is_dropped(path: Path) -> None:
    sidecars.path_of(path).write_text(
        json.dumps(changed_sidecar(path, later={"a": 1}, _target_="os.system"))
    )
    assert files.verify(path).keys() == {*METADATA, "format", "bytes", "sha256"}


def in_format_1(text: str) -> str:
    """A sidecar in the words of format 1."""
    return text.replace('"siblings"', '"twins"').replace('"weights-only"', '"light"')


VICTIMS = ("best.pth", "other.pth", "0.pt", "../results.json")


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        pytest.param("../results.json", {"kind": "weights-only"}, id="above"),
        pytest.param("/tmp/x.pth", {"kind": "weights-only"}, id="absolute"),
        pytest.param("best.pth", {"kind": "weights-only"}, id="best"),
        pytest.param("other.pth", {"kind": "weights-only"}, id="another"),
        pytest.param("0.pt", {"kind": "task"}, id="task"),
        pytest.param("task0.1_full.pth", {"kind": "weights-only"}, id="weights-as-full"),
        pytest.param("task0.1.pth", {"kind": "epoch"}, id="full-as-weights"),
        pytest.param("task0.2.pth", {"kind": "weights-only"}, id="another-epoch"),
        pytest.param("../x.1.pth", {"kind": "weights-only", "stage": "../x"}, id="stage-above"),
        pytest.param("x.json", {"kind": "weights-only"}, id="sidecar"),
        pytest.param(".hidden.pth", {"kind": "weights-only", "stage": ".hidden"}, id="hidden"),
        pytest.param("task0.1.pth", {"kind": "weights-only", "sha256": "0" * 64}, id="own-proof"),
        pytest.param("task0.1.pth", {"kind": "weights-only", "siblings": []}, id="own-siblings"),
        pytest.param(["task0.1.pth"], {"kind": "weights-only"}, id="list"),
    ],
)
@pytest.mark.parametrize("words", [lambda text: text, in_format_1], ids=["today", "format-1"])
def test_siblings_have_the_names_of_an_epoch_and_no_other(
    path: Path, name: Any, fields: dict[str, Any], words: Callable[[str], str]
) -> None:
    for victim in VICTIMS:
        (path.parent / victim).write_text("mine")
    sibling = [name, {**METADATA, **fields}]
    sidecars.path_of(path).write_text(words(json.dumps(changed_sidecar(path, siblings=[sibling]))))
    mine = {path, sidecars.path_of(path)}
    before = set(path.parents[1].rglob("*")) - mine
    manager = CheckpointManager(path.parent, "x", Policy(save=True), Cadence([]))
    manager._open()
    aside = {path.with_name(f"{path.name}.damaged-0{end}") for end in ("", ".sidecar")}
    assert set(path.parents[1].rglob("*")) == before | aside
    assert all((path.parent / victim).read_text() == "mine" for victim in VICTIMS)


@pytest.mark.parametrize("words", [lambda text: text, in_format_1], ids=["today", "format-1"])
def test_a_missing_sibling_is_written(path: Path, words: Callable[[str], str]) -> None:
    sibling = ["task0.1.pth", {**METADATA, "kind": "weights-only"}]
    sidecars.path_of(path).write_text(words(json.dumps(changed_sidecar(path, siblings=[sibling]))))
    assert sidecars.read(path)["siblings"] == [sibling]
    CheckpointManager(path.parent, "x", Policy(save=True), Cadence([]))._open()
    written = path.with_name("task0.1.pth")
    assert list(files.read(written)) == ["model_state_dict"]
    assert sidecars.read(written)["kind"] == "weights-only"


def test_a_weights_only_checkpoint_of_format_1_is_known(path: Path) -> None:
    sidecar = sidecars.path_of(path)
    sidecar.write_text(json.dumps(changed_sidecar(path, kind="light", format=1)))
    assert [entry.full for entry in ledger.entries(path.parent)] == [False]


def test_a_sibling_never_replaces_what_is_committed(path: Path) -> None:
    weights = path.with_name("task0.1.pth")
    files.write(
        weights, {"model_state_dict": {"w": torch.ones(1)}}, {**METADATA, "kind": "weights-only"}
    )
    before = weights.read_bytes()
    sibling = [weights.name, {**METADATA, "kind": "weights-only"}]
    sidecars.path_of(path).write_text(json.dumps(changed_sidecar(path, siblings=[sibling])))
    CheckpointManager(path.parent, "x", Policy(save=True), Cadence([]))._open()
    assert weights.read_bytes() == before


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)
KEYS = (*METADATA, "format", "bytes", "sha256", "monitor", "selected_on", "siblings", "twins")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A valid file and one that no sidecar may make load, each of which is committed."""
    folder = tmp_path_factory.mktemp("world")
    good, bad = folder / "a.pt", folder / "b.pt"
    files.write(good, STATE, METADATA)
    files.write(bad, {**STATE, "x": [torch.zeros(1)]}, METADATA)
    torch.save({**STATE, "x": [torch.nn.functional.relu, torch.FloatTensor]}, bad)
    return good, bad


def proof(path: Path) -> dict[str, Any]:
    data = path.read_bytes()
    return {"format": 1, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def require_only_sentences(path: Path, loads: bool) -> None:
    for read in (files.read, open_file):
        with suppress(UserError):
            read(path)
            assert loads
    ledger.entries(path.parent)


@settings(max_examples=150, deadline=None)
@given(data=st.binary(max_size=200))
def test_no_bytes_raise_more_than_a_sentence(world: tuple[Path, Path], data: bytes) -> None:
    for path, loads in zip(world, (True, False), strict=True):
        sidecars.path_of(path).write_bytes(data)
        require_only_sentences(path, loads)


@settings(max_examples=150, deadline=None)
@given(value=JSON | st.dictionaries(st.sampled_from(KEYS), JSON), proven=st.booleans())
def test_no_value_raises_more_than_a_sentence(
    world: tuple[Path, Path], value: Any, proven: bool
) -> None:
    for path, loads in zip(world, (True, False), strict=True):
        content = {**value, **proof(path)} if proven and isinstance(value, dict) else value
        sidecars.path_of(path).write_text(json.dumps(content))
        require_only_sentences(path, loads)


def test_the_limit_is_a_sidecars_own(path: Path) -> None:
    text = sidecars.path_of(path).read_text()
    sidecars.path_of(path).write_text(text + " " * (sidecars.LIMIT - len(text)))
    assert archive.load(path).keys() == files.read(path).keys()
