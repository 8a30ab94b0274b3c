from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from perdure.tracking import provenance
from perdure.tracking.provenance import environment, read_code

pytestmark = pytest.mark.process

needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")


def git(root: Path, *arguments: str) -> str:
    who = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    done = subprocess.run(
        ["git", "-C", str(root), *who, *arguments], check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small project, not yet a git checkout, safe from the git settings around the tests."""
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", os.devnull)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    root = tmp_path / "project"
    for name, text in {
        "train.py": "print(1)\n", "conf/train.yaml": "seed: 0\n", "conf/model/er.yaml": "lr: 1\n",
        "src/p/er.py": "x = 1\n", "src/p/table.npy": "0", "README.md": "not below src\n",
        "src/p/__pycache__/er.py": "cache", "src/p/big.txt": "x" * 1_000_001, ".gitignore": "*.npy",
    }.items():  # fmt: skip
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.fixture
def checkout(root: Path) -> Path:
    """The project, committed."""
    git(root, "init", "-q", "-b", "main")
    git(root, "add", "-A")
    git(root, "commit", "-qm", "first")
    return root


def copied(folder: Path) -> set[str]:
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    return found - {"commit.txt", "diff.patch", "environment.txt"}


def test_code_and_configuration_are_copied_and_nothing_else(root: Path, tmp_path: Path) -> None:
    read_code(root).write(tmp_path / "run")
    code = tmp_path / "run" / "code"
    assert copied(code) == {"train.py", "conf/train.yaml", "conf/model/er.yaml", "src/p/er.py"}
    assert (code / "src/p/er.py").read_text() == "x = 1\n"
    assert "not a git checkout" in (code / "commit.txt").read_text()


def test_links_that_lead_out_are_not_followed(root: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "key.py").write_text("secret")
    (root / "src/p/key.py").symlink_to(secret / "key.py")
    (root / "src/out").symlink_to(secret)
    (root / "src/dangling.py").symlink_to(root / "nowhere.py")
    (root / "src/inner.py").symlink_to(root / "src/p/er.py")
    read_code(root).write(tmp_path / "run")
    code = tmp_path / "run" / "code"
    assert not any("key" in name or "out" in name for name in copied(code))
    assert (code / "src/inner.py").read_text() == "x = 1\n"
    shutil.rmtree(root / "conf")
    (root / "conf").symlink_to(secret)
    read_code(root).write(tmp_path / "other")
    assert not any(name.startswith("conf") for name in copied(tmp_path / "other" / "code"))


def test_pipes_are_not_read(root: Path, tmp_path: Path) -> None:
    os.mkfifo(root / "src/p/pipe.py")
    read_code(root).write(tmp_path / "run")
    assert "src/p/pipe.py" not in copied(tmp_path / "run" / "code")


@needs_git
def test_a_clean_checkout_is_named_by_its_commit(checkout: Path, tmp_path: Path) -> None:
    read_code(checkout).write(tmp_path / "run")
    code = tmp_path / "run" / "code"
    lines = (code / "commit.txt").read_text().splitlines()
    assert lines[:3] == [f"commit {git(checkout, 'rev-parse', 'HEAD')}", "branch main", "clean"]
    assert (code / "diff.patch").read_bytes() == b""


@needs_git
def test_commit_patch_and_copies_give_back_the_code(checkout: Path, tmp_path: Path) -> None:
    git(checkout, "config", "color.ui", "always")
    git(checkout, "config", "diff.noprefix", "true")
    (checkout / "src/p/er.py").write_text("x = 2\n")
    (checkout / "README.md").write_text("changed\n")
    (checkout / "src/p/néw.py").write_text("y = 1\n")
    git(checkout, "add", "README.md")
    read_code(checkout).write(tmp_path / "run")
    code = tmp_path / "run" / "code"
    assert "dirty" in (code / "commit.txt").read_text().splitlines()
    patch = (code / "diff.patch").read_text()
    assert "# untracked, copied beside this file: src/p/néw.py" in patch
    assert (code / "src/p/néw.py").exists()
    git(checkout, "stash")
    assert (checkout / "src/p/er.py").read_text() == "x = 1\n"
    git(checkout, "apply", str(code / "diff.patch"))
    assert (checkout / "src/p/er.py").read_text() == "x = 2\n"
    assert (checkout / "README.md").read_text() == "changed\n"


@needs_git
def test_an_untracked_file_alone_makes_a_checkout_dirty(checkout: Path, tmp_path: Path) -> None:
    (checkout / "conf/model/new.yaml").write_text("a: 1\n")
    read_code(checkout).write(tmp_path / "run")
    assert "dirty" in (tmp_path / "run/code/commit.txt").read_text().splitlines()


@needs_git
def test_a_repository_without_a_commit_is_reported(root: Path, tmp_path: Path) -> None:
    git(root, "init", "-q", "-b", "main")
    read_code(root).write(tmp_path / "run")
    assert (tmp_path / "run/code/commit.txt").read_text().startswith("commit (initial)\n")


@needs_git
def test_git_keeps_its_index_as_it_was(checkout: Path, tmp_path: Path) -> None:
    os.utime(checkout / "src/p/er.py", (1, 1))
    before = (checkout / ".git/index").read_bytes()
    read_code(checkout).write(tmp_path / "run")
    assert (checkout / ".git/index").read_bytes() == before


def test_missing_git_does_not_fail_the_run(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    read_code(root).write(tmp_path / "run")
    assert "git is not installed" in (tmp_path / "run/code/commit.txt").read_text()
    assert "train.py" in copied(tmp_path / "run" / "code")


def test_a_git_that_hangs_is_given_up(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = tmp_path / "bin" / "git"
    fake.parent.mkdir()
    fake.write_text("#!/bin/sh\nexec sleep 60\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake.parent}:{os.environ['PATH']}")
    monkeypatch.setattr(provenance, "GIT_SECONDS", 0.2)
    read_code(root).write(tmp_path / "run")
    assert "git did not answer" in (tmp_path / "run/code/commit.txt").read_text()


def test_the_same_code_is_kept_once_and_other_code_beside_it(root: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    for _ in range(2):
        read_code(root).write(run)
    assert [path.name for path in run.iterdir()] == ["code"]
    (root / "src/p/er.py").write_text("x = 2\n")
    for _ in range(2):
        read_code(root).write(run)
    assert sorted(path.name for path in run.iterdir()) == ["code", "code-2"]
    assert (run / "code/src/p/er.py").read_text() == "x = 1\n"
    assert (run / "code-2/src/p/er.py").read_text() == "x = 2\n"


def test_a_snapshot_that_was_cut_short_is_made_again(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    real_write = Path.write_bytes

    def write_three(self: Path, data: bytes) -> int:
        if len(written) == 3:
            raise KeyboardInterrupt
        written.append(self.name)
        return real_write(self, data)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", write_three)
        with pytest.raises(KeyboardInterrupt):
            read_code(root).write(tmp_path / "run")
    read_code(root).write(tmp_path / "run")
    assert len(copied(tmp_path / "run/code")) == 4
    assert (tmp_path / "run/code/commit.txt").exists()


@pytest.mark.parametrize(
    ("written", "listed"),
    [("Name: a-b\nVersion: 1.5\n", "a-b==1.5"), (None, "a-b==unknown")],
    ids=["version-inside", "broken"],
)
def test_a_version_that_the_folder_does_not_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: str | None, listed: str
) -> None:
    (tmp_path / "a_b.egg-info").mkdir()
    if written is not None:
        (tmp_path / "a_b.egg-info" / "PKG-INFO").write_text(written)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert listed in environment().splitlines()


def test_environment_names_every_installed_distribution() -> None:
    listed = dict(re.findall(r"^([^=\s]+)==(\S+)$", environment(), flags=re.MULTILINE))
    for distribution in importlib.metadata.distributions():
        name = re.sub(r"[-_.]+", "-", distribution.metadata["Name"]).lower()
        assert listed[name] == distribution.version
    assert "platform: " in environment()


# --- secrets --------------------------------------------------------------------------------------

SECRET = "hunter2-secret"
SECRETS = (
    ".env", "conf/.env.local", "conf/prod.ENV", "src/p/server.pem", "src/deploy.KEY", "conf/id_rsa",
    "credentials", "conf/credentials.yaml", "conf/Secrets.yml", "src/p/secrets.py", ".netrc",
    "src/credentials.py", "conf/hf_token.txt", "conf/token", "conf/secrets/db.yaml", ".pypirc",
    "vault.kdbx",
)  # fmt: skip
NO_SECRETS = (
    "src/p/tokenizer.py", "src/p/tokens.py", "conf/tokenizer.yaml", "conf/token_mixing.yaml",
    "src/p/secret_sharing.py", "src/p/keys.py", "src/environment.yaml", "conf/special_tokens.json",
)  # fmt: skip


def write(root: Path, names: tuple[str, ...], text: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def everything(folder: Path) -> str:
    return "\n".join(path.read_text() for path in sorted(folder.rglob("*")) if path.is_file())


@pytest.mark.parametrize("name", SECRETS)
def test_a_name_that_looks_secret(name: str) -> None:
    assert provenance.looks_secret(name)


@pytest.mark.parametrize("name", NO_SECRETS)
def test_a_name_that_does_not(name: str) -> None:
    assert not provenance.looks_secret(name)


@needs_git
def test_tracked_files_that_look_secret_are_left_out_and_named(
    checkout: Path, tmp_path: Path
) -> None:
    write(checkout, SECRETS + NO_SECRETS, "password: old-secret\n")
    git(checkout, "add", "-Af")
    git(checkout, "commit", "-qm", "oops")
    write(checkout, SECRETS, f"password: {SECRET}\n")
    write(checkout, NO_SECRETS, "harmless: 1\n")
    git(checkout, "rm", "-qf", "conf/token")
    read_code(checkout).write(tmp_path / "run")
    code = tmp_path / "run/code"
    assert SECRET not in everything(code)
    patch = (code / "diff.patch").read_text()
    for name in SECRETS:
        assert f"# left out, since it may hold secrets: {name}\n" in patch
        assert not (code / name).exists()
    preamble, _, sections = patch.partition("diff --git ")
    assert preamble.count("\n") == len(SECRETS)
    assert [name for name in NO_SECRETS if f"b/{name}" not in sections] == []
    git(checkout, "checkout", "-q", "HEAD", "--", ".")
    git(checkout, "apply", str(code / "diff.patch"))
    assert {(checkout / name).read_text() for name in NO_SECRETS} == {"harmless: 1\n"}


@needs_git
def test_a_secret_alone_makes_a_checkout_dirty(checkout: Path, tmp_path: Path) -> None:
    write(checkout, (".env",), "a=1\n")
    git(checkout, "add", "-Af")
    git(checkout, "commit", "-qm", "oops")
    write(checkout, (".env",), f"a={SECRET}\n")
    code = read_code(checkout)
    code.write(tmp_path / "run")
    assert code.version.endswith("+")
    assert "dirty" in (tmp_path / "run/code/commit.txt").read_text().splitlines()
    assert (tmp_path / "run/code/diff.patch").read_text() == (
        "# left out, since it may hold secrets: .env\n"
    )


@needs_git
@pytest.mark.parametrize("renames", ["true", "false"])
def test_a_secret_that_is_renamed_stays_out(checkout: Path, tmp_path: Path, renames: str) -> None:
    git(checkout, "config", "diff.renames", renames)
    lines = "".join(f"{SECRET} {n}\n" for n in range(20))
    write(checkout, ("conf/credentials.yaml", "conf/plain.yaml"), lines.replace(SECRET, "old"))
    write(checkout, ("conf/credentials.yaml",), lines)
    git(checkout, "add", "-Af")
    git(checkout, "commit", "-qm", "oops")
    git(checkout, "mv", "conf/credentials.yaml", "conf/harmless.txt")
    (checkout / "conf/harmless.txt").write_text(f"{lines}and more\n")
    git(checkout, "mv", "conf/plain.yaml", "conf/secret-plain.yaml")
    read_code(checkout).write(tmp_path / "run")
    patch = (tmp_path / "run/code/diff.patch").read_text()
    assert SECRET not in patch
    for name in ("conf/credentials.yaml", "conf/harmless.txt", "conf/secret-plain.yaml"):
        assert f"# left out, since it may hold secrets: {name}\n" in patch


@needs_git
def test_an_untracked_secret_is_named_alone(checkout: Path, tmp_path: Path) -> None:
    write(checkout, ("conf/secrets.yaml", "conf/new.yaml"), f"password: {SECRET}\n")
    read_code(checkout).write(tmp_path / "run")
    code = tmp_path / "run/code"
    assert not (code / "conf/secrets.yaml").exists()
    assert (code / "diff.patch").read_text() == (
        "# untracked, copied beside this file: conf/new.yaml\n"
        "# left out, since it may hold secrets: conf/secrets.yaml\n"
    )


@needs_git
def test_a_secret_in_an_address_is_redacted_in_copies_and_patch(
    checkout: Path, tmp_path: Path
) -> None:
    write(checkout, ("conf/a.yaml", "conf/ü.yaml"), "load: null\n")
    git(checkout, "add", "-A")
    git(checkout, "commit", "-qm", "second")
    load = f"load: 'https://user:{SECRET}@h/a.pth?token={SECRET}' # é\n"
    write(checkout, ("conf/a.yaml", "conf/ü.yaml", "conf/untracked.yaml"), load)
    (checkout / "src/p/latin.txt").write_bytes(b"\xe9 https://h/?token=hunter2-\xe9secret \xe9")
    read_code(checkout).write(tmp_path / "run")
    code = tmp_path / "run/code"
    assert SECRET.encode() not in b"".join(p.read_bytes() for p in code.rglob("*") if p.is_file())
    assert (code / "conf/a.yaml").read_text() == "load: 'https://***@h/a.pth?token=***' # é\n"
    assert (code / "src/p/latin.txt").read_bytes() == b"\xe9 https://h/?token=*** \xe9"
    patch = (code / "diff.patch").read_text()
    for name in ("conf/a.yaml", "conf/ü.yaml", "conf/untracked.yaml"):
        assert f"# *** stands for the secret of an address in the copy of: {name}\n" in patch
    for name in ("conf/a.yaml", "conf/ü.yaml"):
        assert (
            f"# *** stands for the secret of an address, so this does not apply to: {name}\n"
            in patch
        )
    assert "+load: 'https://***@h/a.pth?token=***' # é\n" in patch


@needs_git
def test_a_mode_or_an_empty_file_that_looks_secret(checkout: Path, tmp_path: Path) -> None:
    write(checkout, ("conf/id_rsa", "conf/b c.yaml"), "x\n")
    git(checkout, "add", "-Af")
    git(checkout, "commit", "-qm", "second")
    for name in ("conf/id_rsa", "conf/b c.yaml"):
        (checkout / name).chmod(0o755)
    write(checkout, ("conf/secret.txt",), "")
    git(checkout, "add", "conf/secret.txt")
    read_code(checkout).write(tmp_path / "run")
    patch = (tmp_path / "run/code/diff.patch").read_text()
    assert patch.startswith(
        "# left out, since it may hold secrets: conf/id_rsa\n"
        "# left out, since it may hold secrets: conf/secret.txt\n"
        "diff --git a/conf/b c.yaml b/conf/b c.yaml\n"
    )
