"""Code snapshot of a run: git commit and diff, the text files, the installed packages.

Where Perdure was installed from a wheel there is no repository: its version stands for it. Modules
of the user's are copied either way. Files that look like secrets are left out, and secrets in
addresses are redacted; diff.patch lists both.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from stat import S_ISREG

import perdure
from perdure.io.redaction import redacted, redacted_words
from perdure.io.run_files import CODE, RunFiles

FOLDERS = ("conf", "src")
SCRIPTS = ("train.py",)
MODULES = "modules"
"""Where the user's own modules are copied to, below code/."""
SUFFIXES = {".py", ".yaml", ".yml", ".toml", ".txt", ".md"}
MOST_BYTES = 1_000_000
GIT_SECONDS = 5.0
LEFT_OUT = "left out, since it may hold secrets"
REDACTED = "*** stands for the secret of an address in the copy of"
REDACTED_HERE = "*** stands for the secret of an address, so this does not apply to"
SETTINGS = ("-c", "core.quotepath=false", "-c", "diff.autoRefreshIndex=false")
STATUS = ("status", "--porcelain=v2", "--branch", "--untracked-files=all")
DIFF = ("diff", "HEAD", "--relative", "--no-color", "--no-ext-diff", "--no-textconv",
        "--find-renames", "--src-prefix=a/", "--dst-prefix=b/")  # fmt: skip

_SECRET = re.compile(
    r"""
    \.env(\..*)? | .*\.(env|pem|key|p12|pfx|jks|keystore|ppk|kdbx)
    | \.?(netrc|npmrc|pypirc|pgpass|my\.cnf|htpasswd|git-credentials)
    | id_(rsa|dsa|ecdsa|ed25519).*
    | \.?(credentials?|secrets?)(\.py)?
    | \.?(credential|secret)(?!.*\.py$).*
    | ((.*[._-])?token|tokens)(\.[a-z]+)?(?<!\.py)
    """,
    re.IGNORECASE | re.VERBOSE,
)
_SECRET_FOLDERS = {"secret", "secrets", "credentials", ".ssh", ".aws", ".gnupg"}
_SECTION = re.compile(r"^(?=diff --git )", re.MULTILINE)
_NAMED = re.compile(
    r"^(?:---|\+\+\+|rename from|rename to|copy from|copy to) (.*?)\t?$", re.MULTILINE
)


@dataclass(frozen=True)
class CodeSnapshot:
    """commit.txt, diff.patch, environment.txt, the text files of a repository, and modules.

    Attributes:
        version: the code's version in a word: the commit, with a + where files differ from it.
        commit: what commit.txt says of it.
        notes: lines for diff.patch on what was left out or changed in the copies.
        patch: from that commit to the code that ran.
        files: the content of each other file, by its path.
        root: the repository; None where there is none.
    """

    version: str
    commit: str
    files: dict[str, bytes]
    notes: str = ""
    patch: bytes = b""
    root: Path | None = None

    def with_modules(self, paths: Mapping[str, Path], left_out: Sequence[str]) -> CodeSnapshot:
        """The same with the files `paths` below modules/, but for those that it has already."""
        known = {self.root / name for name in self.files} if self.root else set()
        new = {
            f"{MODULES}/{name}": path for name, path in paths.items() if path.resolve() not in known
        }
        files, notes = _copies(new)
        notes += "".join(f"# left out: {what}\n" for what in left_out)
        return replace(self, notes=self.notes + notes, files={**self.files, **files})

    def write(self, folder: Path) -> None:
        """Write `folder`/code.

        A later call writes nothing where the code is the same, and `folder`/code-2, … where it is
        not: a run that was resumed with other code keeps both.
        """
        # Lines before the first `diff --git` are a preamble that `git apply` skips.
        files = {
            **self.files,
            "diff.patch": self.notes.encode("utf-8", "surrogateescape") + self.patch,
        }
        identity = hashlib.sha256()
        for name, data in sorted(files.items()):
            identity.update(f"{name}\0{len(data)}\0".encode() + data)
        commit = f"{self.commit}\nsha256 of this folder's files: {identity.hexdigest()}\n".encode()
        target = _free_folder(folder, commit)
        if target is not None:
            _write(target, {**files, "commit.txt": commit})


def read_code(root: Path | None) -> CodeSnapshot:
    """The code as it is now; nothing is written.

    Missing git never fails a run.

    Args:
        root: the folder that holds conf/, src/ and train.py; nothing outside it is followed. None
            where Perdure was installed from a wheel.
    """
    if root is None:
        commit, version = _installed()
        return CodeSnapshot(version, commit, {"environment.txt": environment().encode()})
    git = _Git(root)
    files, notes = _copies({str(path.relative_to(root)): path for path in text_files(root)})
    files["environment.txt"] = environment().encode()
    commit, patch = git.outputs()
    return CodeSnapshot(_short_version(commit), commit, files, notes, patch, root.resolve())


def _copies(paths: Mapping[str, Path]) -> tuple[dict[str, bytes], str]:
    """The content of each file without the secrets of addresses, and a note where one was."""
    files: dict[str, bytes] = {}
    notes = ""
    for name, path in paths.items():
        if looks_secret(name):
            notes += f"# {LEFT_OUT}: {name}\n"
        if looks_secret(name) or not _is_text(path):
            continue
        # An editor may replace a file between the listing and the reading.
        with contextlib.suppress(OSError):
            data = path.read_bytes()
            files[name] = _redacted(data)
            if files[name] != data:
                notes += f"# {REDACTED}: {name}\n"
    return files, notes


def _installed() -> tuple[str, str]:
    """What commit.txt says of a package that was installed, and its version in a word."""
    from importlib.metadata import PackageNotFoundError, distribution

    version, origin = perdure.__version__, {}
    with contextlib.suppress(PackageNotFoundError, OSError, ValueError):
        found = distribution("perdure")
        if Path(str(found.locate_file("perdure"))).samefile(Path(perdure.__file__).parent):
            origin = json.loads(found.read_text("direct_url.json") or "{}")
    commit = origin.get("vcs_info", {}).get("commit_id", "")
    lines = [f"perdure {version}", "installed as a package"]
    if commit:
        lines += [f"from {redacted(origin['url'])}", f"at commit {commit}"]
    return "\n".join(lines), f"{version}+{commit[:12]}" if commit else version


def _short_version(commit: str) -> str:
    name, *rest = commit.splitlines()
    if not name.startswith("commit "):
        return "unknown"
    return name.removeprefix("commit ")[:12] + ("+" if "dirty" in rest else "")


def text_files(root: Path) -> Iterator[Path]:
    """The code and configuration below `root`: small text files, no caches, no way out of it."""
    inside = root.resolve()
    for name in SCRIPTS:
        yield from (path for path in [root / name] if _is_copied(path, inside))
    for name in FOLDERS:
        if not (root / name).resolve().is_relative_to(inside):
            continue
        for here, folders, names in os.walk(root / name):
            folders[:] = sorted(
                f
                for f in folders
                if f != "__pycache__" and not f.startswith(".") and f.lower() not in _SECRET_FOLDERS
            )
            yield from (
                path for path in (Path(here, n) for n in sorted(names)) if _is_copied(path, inside)
            )


def environment() -> str:
    """Python, the platform, and every installed distribution as `name==version`, a line each.

    Read from the names of the metadata folders, which hold both: opening each one's METADATA, as
    importlib.metadata does, costs fifty times as much.
    """
    system = f"{platform.system()} {platform.release()} {platform.machine()}"
    lines = [f"python=={platform.python_version()}", f"platform: {system}"]
    versions: dict[str, str] = {}
    for entry in sys.path:
        for name, version in _distributions(entry or "."):
            versions.setdefault(name, version)
    return "\n".join(lines + [f"{name}=={versions[name]}" for name in sorted(versions)]) + "\n"


def _is_copied(path: Path, inside: Path) -> bool:
    try:
        if path.is_symlink() and not path.resolve().is_relative_to(inside):
            return False
    except OSError:
        return False
    return _is_text(path)


def _is_text(path: Path) -> bool:
    """Whether it is a small file of code or text that holds no secrets by its name."""
    if path.suffix not in SUFFIXES or looks_secret(path.name):
        return False
    try:
        status = path.stat()
    except OSError:
        return False
    return S_ISREG(status.st_mode) and status.st_size <= MOST_BYTES


def _distributions(folder: str) -> Iterator[tuple[str, str]]:
    try:
        names = os.listdir(folder)
    except OSError:
        return
    for name in names:
        stem, suffix = os.path.splitext(name)
        if suffix in {".dist-info", ".egg-info"}:
            project, _, version = stem.partition("-")
            found = version.split("-")[0] or _written_version(Path(folder, name))
            yield project.lower().replace("_", "-"), found


def _written_version(metadata: Path) -> str:
    """The version from inside the metadata: an editable install may leave it out of the name."""
    from importlib.metadata import Distribution

    try:
        # Where the metadata is missing, some versions of Python give None and others raise.
        return Distribution.at(metadata).version or "unknown"
    except Exception:
        return "unknown"


class _Git:
    """Two git processes, started together; they run while the files are read.

    Without optional locks and refreshes git leaves its index alone, so that runs which start
    together, or a person at work in the checkout, are not disturbed.
    """

    def __init__(self, root: Path) -> None:
        self._status = _start_git(root, *STATUS, "--", *FOLDERS, *SCRIPTS)
        self._diff = _start_git(root, *DIFF, "--", ".")

    def outputs(self) -> tuple[str, bytes]:
        """The content of commit.txt, and the patch from that commit to the code that ran."""
        deadline = time.monotonic() + GIT_SECONDS
        status, problem = _output(self._status, deadline)
        patch, _ = _output(self._diff, deadline)
        if problem:
            return problem, b""
        patch, notes = _without_secrets(patch)
        lines = status.decode("utf-8", "replace").splitlines()
        facts = dict(line[2:].partition(" ")[::2] for line in lines if line.startswith("# "))
        untracked = [line[2:] for line in lines if line.startswith("? ")]
        is_dirty = bool(patch or notes) or any(not line.startswith("# ") for line in lines)
        commit = (
            f"commit {facts.get('branch.oid', 'unknown')}\n"
            f"branch {facts.get('branch.head', 'unknown')}\n"
            f"{'dirty' if is_dirty else 'clean'}"
        )
        for path in untracked:
            what = LEFT_OUT if looks_secret(path) else "untracked, copied beside this file"
            notes.append(f"# {what}: {path}\n")
        return commit, "".join(notes).encode("utf-8", "surrogateescape") + patch


def looks_secret(path: str) -> bool:
    """Whether a file's name, or that of a folder it is in, is one under which people keep secrets.

    Code stays (tokens.py, secret_sharing.py), but for the usual secrets.py and credentials.py.
    """
    *folders, name = path.strip('"').lower().split("/")
    return not _SECRET_FOLDERS.isdisjoint(folders) or _SECRET.fullmatch(name) is not None


def _without_secrets(patch: bytes) -> tuple[bytes, list[str]]:
    """The patch without files that look like secrets, renamed ones too; lines that list them."""
    kept, notes = "", []
    for section in _SECTION.split(patch.decode("utf-8", "surrogateescape")):
        names = _names(section)
        secret = sorted(name for name in names if looks_secret(name))
        if secret:
            notes += [f"# {LEFT_OUT}: {name}\n" for name in sorted(names)]
            continue
        shown = redacted_words(section)
        if shown != section:
            notes += [f"# {REDACTED_HERE}: {name}\n" for name in sorted(names)]
        kept += shown
    return kept.encode("utf-8", "surrogateescape"), notes


def _names(section: str) -> set[str]:
    """The files that one section of a patch is about, as git writes them."""
    head = re.split(r"^@@ ", section, maxsplit=1, flags=re.MULTILINE)[0]
    found = {re.sub('^("?)[ab]/', r"\1", name) for name in _NAMED.findall(head)} - {"/dev/null"}
    if not found and head:  # a file without lines has its name twice in the first line
        line = head.partition("\n")[0].removeprefix("diff --git ")
        found = {re.sub('^("?)[ab]/', r"\1", line[: len(line) // 2])}
    return found


def _redacted(data: bytes) -> bytes:
    text = data.decode("utf-8", "surrogateescape")
    return redacted_words(text).encode("utf-8", "surrogateescape")


def _start_git(root: Path, *arguments: str) -> subprocess.Popen[bytes] | None:
    command = ["git", "-C", str(root), *SETTINGS, "--no-pager", *arguments]
    try:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"},
        )
    except OSError:
        return None


def _output(process: subprocess.Popen[bytes] | None, deadline: float) -> tuple[bytes, str]:
    """(Output, ""), or (nothing, why there is none)."""
    if process is None:
        return b"", "git is not installed"
    try:
        output, errors = process.communicate(timeout=max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return b"", f"git did not answer within {GIT_SECONDS:.0f} s"
    if process.returncode == 0:
        return output, ""
    reason = errors.decode("utf-8", "replace").strip().partition("\n")[0]
    return b"", "not a git checkout" if "not a git repository" in reason else f"git: {reason}"


def _free_folder(folder: Path, commit: bytes) -> Path | None:
    """Where a new snapshot goes; None where the latest one is equal.

    commit.txt is written last, so a snapshot without one was cut short and is written again.
    """
    number, target = 1, RunFiles(folder).code
    while (target / "commit.txt").exists():
        if (target / "commit.txt").read_bytes() == commit:
            return None
        number += 1
        target = folder / f"{CODE}-{number}"
    return target


def _write(target: Path, files: dict[str, bytes]) -> None:
    made: set[Path] = set()
    for name, data in files.items():
        path = target / name
        if path.parent not in made:
            path.parent.mkdir(parents=True, exist_ok=True)
            made.add(path.parent)
        path.write_bytes(data)
