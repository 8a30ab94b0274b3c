"""What a reference means, and which are refused before anything is asked."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from checkpoint.fetching import DATA, SHA256, refused
from webserver import Server, serving

from perdure.checkpoint.remote.references import resolve

if TYPE_CHECKING:
    from collections.abc import Callable

# --- local paths ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "spell",
    [
        pytest.param(lambda path: str(path), id="absolute"),
        pytest.param(lambda path: path.name, id="relative"),
        pytest.param(lambda path: f"./{path.name}", id="dot"),
        pytest.param(lambda path: f"{path}#sha256={SHA256}", id="pinned"),
        pytest.param(lambda path: f"{path}#sha256={SHA256.upper()}", id="upper-case"),
    ],
)
@pytest.mark.parametrize("name", ["er.pt", "run #1.pt", "é@x?.pt"], ids=["plain", "hash", "odd"])
def test_a_local_file_is_given_as_typed(
    tmp_path: Path,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    spell: Callable[[Path], str],
    name: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_bytes(DATA)
    ref = spell(tmp_path / name)
    assert resolve(ref, cache) == Path(ref.partition("#sha256=")[0])
    assert not cache.exists()


def test_the_home_folder_is_known(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "er.pt").write_bytes(DATA)
    assert resolve("~/er.pt", cache) == tmp_path / "er.pt"


def test_a_run_folder_is_given_back(tmp_path: Path, cache: Path) -> None:
    assert resolve(str(tmp_path), cache) == tmp_path
    assert "a pin is of one file" in refused(f"{tmp_path}#sha256={SHA256}", cache)


@pytest.mark.parametrize(
    "ref",
    ["", "nowhere.pt", "https:/host/x.pt", "a\0b", "~nobody-of-that-name/x.pt", "x" * 5000],
    ids=["empty", "missing", "one-slash", "nul", "no-home", "too-long"],
)
def test_the_error_for_a_missing_file_lists_what_is_accepted(ref: str, cache: Path) -> None:
    assert "must be a local path, https://…, " in refused(ref, cache)


def test_a_device_is_no_file(cache: Path) -> None:
    assert "no such file" in refused(f"/dev/zero#sha256={SHA256}", cache)


def test_a_wrong_pin_of_a_local_file_refuses_and_leaves_the_file(
    tmp_path: Path, cache: Path
) -> None:
    path = tmp_path / "er.pt"
    path.write_bytes(DATA)
    message = refused(f"{path}#sha256={'0' * 64}", cache)
    assert SHA256 in message
    assert "0" * 64 in message
    assert path.read_bytes() == DATA


@pytest.mark.parametrize(
    "pin",
    ["", SHA256[:-1], f"{SHA256}0", "g" * 64, f"{SHA256} ", f"{SHA256}#sha256={SHA256}"],
    ids=["empty", "short", "long", "no-hex", "space", "twice"],
)
@pytest.mark.parametrize("where", ["er.pt", "https://u:secret@h/er.pt?secret"], ids=["file", "web"])
def test_a_malformed_pin_is_refused(where: str, pin: str, cache: Path) -> None:
    message = refused(f"{where}#sha256={pin}", cache)
    assert "64 hex digits" in message
    assert "secret" not in message


# --- schemes and addresses ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ref", "sentence"),
    [
        ("file:///etc/passwd", "the path alone is"),
        ("file:er.pt", "the path alone is"),
        ("FILE://er.pt", "the path alone is"),
        ("ftp://host/er.pt", "ftp:// is not known"),
        ("memory://er.pt", "memory:// is not known"),
        ("simplecache::s3://bucket/er.pt", "must be a local path"),
        ("s3://bucket/er.pt::file:///etc/passwd", "without ::"),
        ("wandb://team/project/name", "wandb:// is not known"),
        ("https://host/er.pt#md5=0", "must be sha256=<64 hex digits>"),
        ("https:///er.pt", "no valid host"),
        ("https://ho st/er.pt", "no valid host"),
        ("https://host:x/er.pt", "not valid"),
        ("https://[::1/er.pt", "not valid"),
        ("https://user:secret@host/er.pt", "user name or password"),
    ],
    ids=str,
)
def test_no_invalid_reference_is_fetched(ref: str, sentence: str, cache: Path) -> None:
    message = refused(ref, cache)
    assert sentence in message
    assert "secret" not in message


def test_the_scheme_may_be_in_capitals(server: Server, cache: Path) -> None:
    server.files["/Er.pt"] = DATA
    path = resolve(server.url("/Er.pt").replace("http:", "HTTP:"), cache)
    assert path.read_bytes() == DATA


def test_odd_letters_in_an_address_are_escaped(server: Server, cache: Path) -> None:
    server.files["/a%20b/%C3%A9%2B.pt"] = DATA
    path = resolve(server.url("/a b/é%2B.pt"), cache)
    assert path.parent == cache
    assert path.name.endswith("-__.pt")


def test_a_possible_signature_is_not_printed(server: Server, cache: Path) -> None:
    assert "secret" not in refused(server.url("/none.pt?signature=secret"), cache)


# --- the hub --------------------------------------------------------------------------------------


@pytest.fixture
def hub(server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    monkeypatch.setenv("HF_ENDPOINT", f"{server.url()}/")
    monkeypatch.setenv("HF_TOKEN", "hf_secret\n")
    return server


def tokens(server: Server) -> set[str | None]:
    return {asked.get("Authorization") for asked in server.headers}


@pytest.mark.parametrize(
    ("ref", "path"),
    [
        ("hf://me/net/er.pt", "/me/net/resolve/main/er.pt"),
        ("hf://me/net/runs/1/er.pt@v1.0", "/me/net/resolve/v1.0/runs/1/er.pt"),
        ("hf://me/net/er.pt@refs/pr/1", "/me/net/resolve/refs%2Fpr%2F1/er.pt"),
        ("hf://me/net/a b?.pt", "/me/net/resolve/main/a%20b%3F.pt"),
    ],
    ids=["main", "tag", "pull-request", "odd"],
)
def test_a_file_of_the_hub(hub: Server, cache: Path, ref: str, path: str) -> None:
    hub.files[path] = DATA
    assert resolve(f"{ref}#sha256={SHA256}", cache).read_bytes() == DATA
    assert tokens(hub) == {"Bearer hf_secret"}


@pytest.mark.parametrize(
    "ref",
    [
        "hf://",
        "hf://er.pt",
        "hf://me/er.pt",
        "hf://me/net/",
        "hf://me/../x/er.pt",
        "hf://me/net/x@",
    ],
    ids=str,
)
def test_what_is_no_file_of_the_hub(hub: Server, cache: Path, ref: str) -> None:
    assert "must be hf://owner/repo/" in refused(ref, cache)
    assert not hub.requests


def test_the_token_does_not_follow_to_another_host(hub: Server, cache: Path) -> None:
    hub.files["/again"] = DATA
    with serving(Server()) as other:
        other.files["/store"] = DATA
        hub.script.append(hub.redirect("/first"))
        hub.script.append(hub.redirect(other.url("/store")))
        assert resolve(f"hf://me/net/er.pt#sha256={SHA256}", cache).read_bytes() == DATA
        assert tokens(other) == {None}
        other.script.append(other.redirect(hub.url("/again")))
        hub.script.append(hub.redirect(other.url("/store")))
        resolve("hf://me/net/er.pt", cache)
        assert tokens(other) == {None}
    assert tokens(hub) == {"Bearer hf_secret"}


def test_the_token_is_for_the_hub_alone(hub: Server, cache: Path) -> None:
    with serving(Server()) as other:
        other.files["/er.pt"] = DATA
        resolve(other.url("/er.pt"), cache)
        assert tokens(other) == {None}


def test_without_a_token_none_is_sent_and_the_error_names_it(
    hub: Server, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    hub.usual = hub.failing(401)
    message = refused("hf://me/net/er.pt", cache)
    assert "HTTP 401" in message
    assert "needs HF_TOKEN" in message
    assert tokens(hub) == {None}
    hub.usual = hub.failing(404)
    assert "HF_TOKEN" not in refused("hf://me/net/er.pt", cache)
    hub.usual = hub.failing(401)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert "HF_TOKEN" not in refused("hf://me/net/er.pt", cache)


@pytest.mark.parametrize(
    ("key", "value"),
    [("HF_TOKEN", "hf_\nsecret"), ("HF_TOKEN", "hf_sécret"), ("HF_ENDPOINT", "file:///secret")],
    ids=["newline", "accent", "endpoint"],
)
def test_a_senseless_setting_is_a_user_error(
    hub: Server, cache: Path, monkeypatch: pytest.MonkeyPatch, key: str, value: str
) -> None:
    monkeypatch.setenv(key, value)
    message = refused("hf://me/net/er.pt", cache)
    assert message.startswith(key)
    assert "secret" not in message


# --- object stores --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scheme", "package"),
    [("s3", "s3fs"), ("gs", "gcsfs"), ("GS", "gcsfs"), ("az", "adlfs")],
    ids=str,
)
def test_a_missing_package_is_named(
    scheme: str, package: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    message = refused(f"{scheme}://bucket/er.pt", cache)
    assert f"pip install {package}" in message
    assert f"{scheme.lower()}://bucket/er.pt" in message
