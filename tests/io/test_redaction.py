"""Secrets in addresses: none survives redaction, and each comes back where it is used."""

from __future__ import annotations

import copy
import json
import os
import pickle
import re
import string
import subprocess
import sys
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, QuotedString
from hypothesis import assume, example, given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from perdure.config.overrides import quoted
from perdure.errors import UserError
from perdure.io.redaction import HARMLESS, VARIABLE, Addresses, redacted, redacted_words

PIN = "#sha256=" + "ab" * 32
SIGNED = (
    "https://bucket.s3.amazonaws.com/ckpt/best_full.pth?X-Amz-Algorithm=AWS4-HMAC-SHA256"
    "&X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20260101&X-Amz-Signature=0123abcd"
)


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("https://h/a.pth?token=hunter2", "https://h/a.pth?token=***"),
        ("HTTPS://h/a.pth?token=hunter2" + PIN, "HTTPS://h/a.pth?token=***" + PIN),
        ("https://h/a?download=true&token=x1&ref=main", "https://h/a?download=true&token=***&ref=main"),
        ("https://h/a?versionId=abc&response-content-type=x", None),
        ("https://h/a?bare-secret", "https://h/a?***"),
        ("https://h/a?c2VjcmV0IQ==", "https://h/a?***"),
        ("https://h/a?a=1;b=2", "https://h/a?a=***;b=***"),
        ("https://h/a?url=https://i/b?token=x", "https://h/a?url=***"),
        ("https://h/a?ref=https://u:p@i/b", "https://h/a?ref=https://***@i/b"),
        ("https://user:pass@h:8443/a", "https://***@h:8443/a"),
        ("https://ghp_token@h/a", "https://***@h/a"),
        ("https://user:p@ss@h/a@main", "https://***@h/a@main"),
        ("https://user:pa/ss@h/a", "https://***@h/a"),
        ("https://user:pa?ss#x@h/a", "https://***@h/a"),
        ("https://[::1]:80/a@b", None),
        ("https://h/a#access_token=x&state=y", "https://h/a#access_token=***&state=***"),
        ("https://h/a#part", "https://h/a#***"),
        ("https://h/a;jsessionid=4F/b", "https://h/a;jsessionid=***/b"),
        ("https://h/access_token=4F/b", "https://h/access_token=***/b"),
        ("s3://bucket/date=2026-01-01/a.pth", None),
        ("s3://key:secret@bucket/a.pth", "s3://***@bucket/a.pth"),
        ("simplecache::https://h/a?sig=x", "simplecache::https://h/a?sig=***"),
        ("https://archive/https://u:p@h/x?t=1", "https://archive/https://***@h/x?t=***"),
        ("abfs://container@account.dfs.core.windows.net/a", None),
        ("git+ssh://git@github.com/owner/repo", None),
        ("postgresql+psycopg2://user@db/trials", None),
        ("postgresql://user:pass@db/trials", "postgresql://***@db/trials"),
        ("sqlite:///search.db?timeout=10", None),
        ("hf://owner/repo/file.pth@main", None),
        ("wandb://entity/project/ckpt-x:latest" + PIN, None),
        ("https://h/a?token=", "https://h/a?***"),
        ("https://h/a?token=${oc.env:TOKEN,${other}}", None),
        ("https://h/a", None),
        ("outputs/x?token=y", None),
        ("", None),
    ],
)  # fmt: skip
def test_what_is_shown_of_an_address(address: str, shown: str | None) -> None:
    assert redacted(address) == (address if shown is None else shown)
    assert redacted(redacted(address)) == redacted(address)


def test_nothing_of_a_presigned_address_is_left() -> None:
    shown = redacted(SIGNED)
    assert not re.search("AKIA|0123abcd|SHA256", shown)
    assert shown.startswith(
        "https://bucket.s3.amazonaws.com/ckpt/best_full.pth?X-Amz-Algorithm=***&"
    )


WHERE = (
    "https://host.example/path/file.pth?token={}",
    "https://host.example/path/file.pth?download=1&X-Amz-Signature={}&part=2",
    "https://host.example/path/file.pth?{}",
    "s3://someone:{}@host.example/path/file.pth",
    "https://{}@host.example/path/file.pth",
)
IN_A_QUERY = st.text(st.characters(exclude_characters="&;#", exclude_categories=["Cs"]), min_size=6)
IN_A_USER = st.text(
    st.sampled_from(string.ascii_letters + string.digits + "-._~!$&'()*+,;=:%@\"\\"), min_size=6
)


def secrets_in(where: str) -> st.SearchStrategy[str]:
    return IN_A_USER if "{}@" in where else IN_A_QUERY


@st.composite
def addresses(draw: st.DrawFn) -> tuple[str, str]:
    """(Whole address, the secret in it)."""
    where = draw(st.sampled_from(WHERE))
    secret = draw(secrets_in(where))
    assume(secret not in where and not re.fullmatch(r"\*{3}\d*|\$?\{.*\}", secret, re.DOTALL))
    # `?download=…` is shown, and an address in such a value is looked into instead.
    assume("=" not in secret and secret.rstrip("\\").lower() not in HARMLESS)
    return where.format(secret), secret


@given(addresses())
@example(("https://host.example/?token=ab'c,d]e\\", "ab'c,d]e\\"))
@example(("https://host.example/?token=https://x/y", "https://x/y"))
def test_no_secret_survives(pair: tuple[str, str]) -> None:
    address, secret = pair
    shown = redacted(address)
    assert secret not in shown
    assert redacted(shown) == shown
    assert Addresses().redact_values({"a": [address]}) == {"a": [shown]}


@given(addresses(), st.sampled_from(["checkpoint.load=", "+a.b=", "++a=", "a@b="]))
def test_an_override_keeps_nothing_and_gives_everything_back(
    pair: tuple[str, str], key: str
) -> None:
    address, secret = pair
    table = Addresses()
    (argument,) = table.command([key + quoted(address)])
    assert secret not in argument
    assert table.redact(argument) == argument
    assert secret not in repr(table)
    parser = OverridesParser.create()
    assume("\n" not in address)  # which Hydra's own grammar does not take
    try:
        typed = parser.parse_override(key + quoted(address)).value()
    except Exception:
        assume(False)
    assert table.restore(str(parser.parse_override(argument).value())) == typed


@given(st.text())
def test_a_text_without_an_address_stays(text: str) -> None:
    assume("://" not in text)
    assert redacted(text) == redacted_words(text) == Addresses().redact(text) == text


@given(st.text(alphabet="ab:/'\"\\,[]{}()$?=&#@* ", max_size=40))
def test_any_text_can_be_redacted_and_again(text: str) -> None:
    once = redacted(text)
    assert redacted(once) == once
    argument = Addresses().redact(text)
    assert Addresses().redact(argument) == argument


def values(found: Any) -> Any:
    """What Hydra's parser has made of an override, in plain containers."""
    if isinstance(found, ChoiceSweep):
        return values(found.list)
    if isinstance(found, dict):
        return {key: values(value) for key, value in found.items()}
    if isinstance(found, list):
        return [values(value) for value in found]
    return found.text if isinstance(found, QuotedString) else found


@pytest.mark.parametrize(
    ("argument", "shown"),
    [
        ("checkpoint.load='https://h/a?token=s1'", "checkpoint.load='https://h/a?token=***'"),
        ('+x="https://h/a?token=s1"', '+x="https://h/a?token=***"'),
        ("++x='https://h/a?token=s\\'1,2'", "++x='https://h/a?token=***'"),
        ("x=https://u:s1@h/a", "x=https://***@h/a"),
        ("x=https://h/a?token\\=s1\\,s2", r"x=https://h/a?token\=***"),
        ("x=[https://u:s1@h/a,'https://h/b?t=s2',c]",
         "x=[https://***@h/a,'https://h/b?t=***',c]"),
        ("x={a: 'https://h/b?t=s2', b: https://u:s1@h/c}",
         "x={a: 'https://h/b?t=***', b: https://***@h/c}"),
        ("x=choice('https://h/a?t=s1','https://i/a?t=s2',none)",
         "x=choice('https://h/a?t=***','https://i/a?t=***',none)"),
        ("x='https://h/a?t=s1','https://h/a?t=s2'", "x='https://h/a?t=***','https://h/a?t=***2'"),
        ("x='https://h/a?t=s1','https://h/a?t=s1'", "x='https://h/a?t=***','https://h/a?t=***'"),
        ("checkpoint.allow=[mylab.Net]", None),
        ("seed=0,1", None),
    ],
)  # fmt: skip
def test_however_an_override_is_written(argument: str, shown: str | None) -> None:
    table, parser = Addresses(), OverridesParser.create()
    (found,) = table.command([argument])
    assert found == (argument if shown is None else shown)
    typed = values(parser.parse_override(argument).value())
    assert table.restore_values(values(parser.parse_override(found).value())) == typed


@pytest.mark.parametrize(
    "argument",
    ["x=https://h/a?token=s3cret,s3cret]", "x='https://h/a?token=s3cret", "x=[https://u:s3cret@h",
     "x=https://h/a?token=s3)cret'", "--config-dir=https://u:s3cret@h", "https://h/?s3cret"],
)  # fmt: skip
def test_what_hydra_will_refuse_is_redacted_too(argument: str) -> None:
    shown = Addresses().redact(argument)
    assert "token=s3" not in shown
    assert ":s3cret" not in shown
    assert "?s3cret" not in shown


def test_two_secrets_of_one_address_are_distinguished_in_the_order_typed() -> None:
    table = Addresses()
    typed = [f"a.b{i}='https://h/a?t=secret-{i}'" for i in (0, 1, 1, 2)]
    shown = table.command(typed)
    marks = ["***", "***2", "***2", "***3"]
    assert shown == [
        f"a.b{i}='https://h/a?t={m}'" for i, m in zip((0, 1, 1, 2), marks, strict=True)
    ]
    assert table.restore("https://h/a?t=***3") == "https://h/a?t=secret-2"
    assert table.command(typed) == shown


def test_the_next_command_starts_anew() -> None:
    table = Addresses()
    table.command(["a='https://h/a?t=first'"])
    assert table.command(["a='https://h/a?t=second'"]) == ["a='https://h/a?t=***'"]
    assert table.restore("https://h/a?t=***") == "https://h/a?t=second"


@pytest.mark.parametrize("shown", ["https://h/a?t=***", "s3://***@b/a", "x::https://h/#***"])
def test_a_secret_that_this_process_has_not_seen_must_be_typed_again(shown: str) -> None:
    with pytest.raises(UserError, match=r"^checkpoint\.load=.*must be the whole address, typed"):
        Addresses().restore(shown, "checkpoint.load")
    with pytest.raises(UserError, match=r"^dataset\.source\.url="):
        Addresses().restore_values({"source": {"url": shown}}, "dataset")


def test_a_secret_goes_to_no_other_address() -> None:
    """A stored configuration may say `***` too, and must not learn what it stands for."""
    table = Addresses()
    table.command(["checkpoint.load='https://h/a?t=secret'"])
    for other in ("https://evil/a?t=***", "http://h/a?t=***", "https://h/b?t=***"):
        with pytest.raises(UserError):
            table.restore(other)


def test_what_is_no_redacted_address_is_restored_as_it_is() -> None:
    table = Addresses()
    for text in ("best.pth", "https://h/a?t=whole", "s3://bucket/**/a", "a ***", ""):
        assert table.restore(text) == text


CONFIG = """
checkpoint: {load: 'https://u:s3cret@h/a?t=s3cret', name: '', top_k: 1}
list: ['https://h/a?t=s3cret', {deep: 's3://k:s3cret@b/x'}]
named: https://h/a?t=${oc.env:NO_SUCH_VARIABLE}
other: ${no.such.key}
missing: ???
nothing: null
"""


def test_a_composed_configuration_is_redacted_in_place_and_not_resolved() -> None:
    table, config = Addresses(), OmegaConf.create(CONFIG)
    OmegaConf.set_readonly(config, True)
    OmegaConf.set_struct(config, True)
    before: Any = OmegaConf.to_container(copy.deepcopy(config))
    table.redact_config(config)
    after: Any = OmegaConf.to_container(config)
    assert "s3cret" not in OmegaConf.to_yaml(config)
    assert after["checkpoint"] == {"load": "https://***@h/a?t=***", "name": "", "top_k": 1}
    assert (after["named"], after["other"]) == (before["named"], before["other"])
    assert (after["missing"], after["nothing"]) == ("???", None)
    assert table.restore_values({key: after[key] for key in ("checkpoint", "list", "named")}) == {
        key: before[key] for key in ("checkpoint", "list", "named")
    }


def test_the_overrides_in_a_configuration_are_as_typed() -> None:
    table = Addresses()
    (typed,) = table.command(["checkpoint.load='https://h/a?t=s3cret'"])
    params = {"checkpoint.load": "choice('https://h/a?t=s3cret', 'https://h/a?t=other')"}
    node = {"overrides": {"task": [typed, "seed=1"]}, "sweeper": {"params": params}}
    config = OmegaConf.create({"hydra": node})
    table.redact_config(config)
    assert config.hydra.overrides.task == [typed, "seed=1"]
    assert config.hydra.sweeper.params["checkpoint.load"] == (
        "choice('https://h/a?t=***', 'https://h/a?t=***2')"
    )


def test_a_typed_node_keeps_its_type() -> None:
    from perdure.config.compose import compose

    config, table = compose("checkpoint.load='https://h/a?t=s3cret'"), Addresses()
    table.redact_config(config)
    assert config.checkpoint.load == "https://h/a?t=***"
    assert "s3cret" not in OmegaConf.to_yaml(config)
    assert table.restore(config.checkpoint.load) == "https://h/a?t=s3cret"


def test_the_addresses_are_never_pickled_nor_shown() -> None:
    table = Addresses()
    table.command(["a='https://h/a?t=s3cret'"])
    with pytest.raises(TypeError):
        pickle.dumps(table)
    with pytest.raises(TypeError):
        copy.copy(table)
    assert "s3cret" not in f"{table} {table!r}"


CHILD = """
import os, sys
from perdure.io.redaction import ADDRESSES, VARIABLE
shown = ADDRESSES.command(sys.argv[1:])
assert VARIABLE not in os.environ
print(*shown, ADDRESSES.restore(shown[0][2:]))
"""


@pytest.mark.process
def test_a_process_is_handed_the_addresses_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    table = Addresses()
    (shown,) = table.command(["a=https://user:s3cret@h/a"])
    with table.exported():
        done = subprocess.run(
            [sys.executable, "-c", CHILD, shown], capture_output=True, text=True, check=True
        )
    assert done.stdout == f"{shown} https://user:s3cret@h/a\n"
    assert VARIABLE not in os.environ
    assert json.loads(table.environment()[VARIABLE]) == {shown[2:]: "https://user:s3cret@h/a"}
    assert Addresses().environment() == {}


def test_words_of_code_stay_unless_they_hold_a_secret() -> None:
    kept = (
        'form = re.compile(r"wandb://([^/:]+)(?:/(.+))?")\n'
        'url = f"https://h/a?token={token}"  # see https://arxiv.org/abs/1#part (https://h/x)\n'
        "don't https://h/a?download=1 and git+ssh://git@h/x\ttabs \x0c\n"
    )
    assert redacted_words(kept) == kept
    line = (
        "+load: 'https://h/a?token=s3cret'  # keep, (https://u:s3cret@h/a) \"s3://b/?k=s3cret\",\n"
    )
    assert redacted_words(line) == (
        "+load: 'https://h/a?token=***'  # keep, (https://***@h/a) \"s3://b/?k=***\",\n"
    )


def test_a_long_line_takes_no_longer_than_its_length() -> None:
    text = "a" * 300_000 + "://" + "b" * 300_000
    assert redacted_words(text) == text


def test_a_text_that_holds_a_redacted_address_restores_nothing() -> None:
    """Such as Hydra's `override_dirname`, which joins all overrides."""
    addresses = Addresses()
    config = OmegaConf.create({"joined": 'x="http://x/y?token=***",seed=1,model=er'})
    addresses.redact_config(config)
    with pytest.raises(UserError, match="must be the whole address, typed again"):
        addresses.restore("http://x/y?token=***")
