"""Records what a program does to the disk, and gives every state that a crash can leave.

`Recorder` logs each operation on files below a folder, and can stop the process before any of
them. `Disk` takes the beginning of such a log and enumerates what a power loss then leaves: bytes
are safe once their file was synced, a name is once its folder was, and nothing else is.
"""

from __future__ import annotations

import io
import itertools
import os
import pathlib
import random
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeAlias
from unittest.mock import patch

Tree: TypeAlias = Mapping[str, "bytes | str | None"]
"""By path below the root: a file's bytes, a symbolic link's target, or None for a folder."""

_SECTOR = 512
_KINDS = {name: name for name in ("mkdir", "unlink", "rename", "link", "symlink")}
_KINDS |= {"remove": "unlink", "replace": "rename"}


@dataclass(frozen=True)
class Operation:
    """One thing done to the disk.

    Attributes:
        kind: of bytes, `truncate`, `write` or `sync`; of names, `create`, `mkdir`, `symlink`,
            `link`, `rename`, `unlink` or `sync folder`.
        names: paths below the root; of a link or rename, old and new.
        file: number of the opened file whose bytes it is about.
        data: bytes written, or a symbolic link's target.
    """

    kind: str
    names: tuple[str, ...]
    file: int = 0
    data: bytes = b""


class Recorder:
    """Logs the operations below `root`, which is empty at first.

    No fsync is really made: what is safe is for `Disk` to say, and a kill loses nothing unsynced.

    Args:
        root: the folder.
        before: called with its number before each operation; may end the process.
        drops: asked at each fsync, with whether it is a folder's; true leaves it out.
    """

    def __init__(
        self,
        root: Path,
        before: Callable[[int], object] = lambda number: None,
        drops: Callable[[bool], bool] = lambda folder: False,
    ) -> None:
        self.root = root
        self.before = before
        self.drops = drops
        self.log: list[Operation] = []
        self._opened: dict[int, tuple[str, int]] = {}
        self._numbers = itertools.count(1)

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Have what the package does to the disk pass through here."""
        self._real = {name: getattr(os, name) for name in ("open", "fdopen", *_KINDS)}
        mine: dict[str, Any] = {name: self._named(name) for name in _KINDS}
        mine.update(open=self._open, fdopen=self._fdopen, fsync=self._fsync)
        # pathlib of Python 3.10 holds its own references to the functions.
        holders = [os, *filter(None, [getattr(pathlib, "_normal_accessor", None)])]
        with ExitStack() as patches:
            for holder, name in itertools.product(holders, mine):
                if hasattr(holder, name):
                    patches.enter_context(patch.object(holder, name, mine[name]))
            yield

    def do(self, operation: Operation, act: Callable[[], Any]) -> Any:
        """Perform `act` and log it, unless it fails."""
        self.before(len(self.log))
        result = act()
        self.log.append(operation)
        return result

    def _below(self, path: Any) -> str | None:
        """`path` from the root on; none when it is elsewhere."""
        absolute = Path(path).absolute()
        return str(absolute.relative_to(self.root)) if absolute.is_relative_to(self.root) else None

    def _named(self, function: str) -> Callable[..., Any]:
        kind, real = _KINDS[function], self._real[function]

        def call(*arguments: Any, **options: Any) -> Any:
            paths = arguments[1:2] if kind == "symlink" else arguments[:2]
            names = [self._below(p) for p in paths if isinstance(p, str | os.PathLike)]
            inside = tuple(name for name in names if name is not None)
            if not inside:
                return real(*arguments, **options)
            if len({os.path.dirname(name) for name in inside}) > 1 or len(inside) < len(names):
                raise NotImplementedError("the simulated disk keeps a file in its folder")
            data = os.fsencode(arguments[0]) if kind == "symlink" else b""
            return self.do(Operation(kind, inside, data=data), lambda: real(*arguments, **options))

        return call

    def _open(self, path: Any, flags: int, *arguments: Any, **options: Any) -> int:
        def act() -> int:
            return int(self._real["open"](path, flags, *arguments, **options))

        name, file = self._below(path), next(self._numbers)
        if name is None:
            handle = act()
            self._opened.pop(handle, None)  # the number may have been used before
            return handle
        if flags & os.O_CREAT and not os.path.lexists(path):
            handle = int(self.do(Operation("create", (name,), file), act))
        elif flags & os.O_TRUNC:
            handle = int(self.do(Operation("truncate", (name,), file), act))
        else:
            handle = act()
        self._opened[handle] = name, file
        return handle

    def _fdopen(self, handle: int, *arguments: Any, **options: Any) -> Any:
        if handle not in self._opened or arguments[:1] == ("rb",):
            return self._real["fdopen"](handle, *arguments, **options)
        return io.BufferedWriter(_Raw(self, handle, *self._opened[handle]))

    def _fsync(self, handle: int) -> None:
        folder = stat.S_ISDIR(os.fstat(handle).st_mode)
        name, file = self._opened.get(handle, (None, 0))
        if name is not None and not self.drops(folder):
            kind = "sync folder" if folder else "sync"
            self.do(Operation(kind, (name,), file), lambda: None)


class _Raw(io.FileIO):
    """The unbuffered file below Python's buffer; writes in two halves, as the kernel may."""

    def __init__(self, recorder: Recorder, handle: int, name: str, file: int) -> None:
        super().__init__(handle, "wb")
        self.recorder = recorder
        self.about = name, file

    def write(self, data: Any, /) -> int:
        whole, (name, file) = bytes(data), self.about
        for part in filter(None, (whole[: len(whole) // 2], whole[len(whole) // 2 :])):
            operation = Operation("write", (name,), file, part)
            self.recorder.do(operation, partial(super().write, part))
        return len(whole)


class Disk:
    """The disk after the operations `log`, and what of it is safe.

    Args:
        log: a beginning of what a `Recorder` logged.
    """

    def __init__(self, log: Sequence[Operation]) -> None:
        self.safe: dict[str, int] = {}
        """Number of the file, folder or link (an inode) behind each name that stays."""
        self.pending: list[tuple[Operation, int]] = []
        """Operations on names since their folder was synced, in order."""
        self._seen: dict[str, int] = {}
        self._opened: dict[int, int] = {}
        self._folders: set[int] = set()
        self._targets: dict[int, str] = {}
        self._bytes: dict[int, list[bytes]] = {}
        """What each file held since it was last synced; the first of these is safe."""
        for number, operation in enumerate(log, 1):
            self._take(number, operation)

    def tree(self) -> Tree:
        """What the living system sees."""
        return self._tree(self._seen, {inode: held[-1] for inode, held in self._bytes.items()})

    def crashes(self, draw: random.Random, limit: int) -> Iterator[Tree]:
        """What power loss may leave: every set of pending names, every loss of unsynced bytes.

        At most `limit` sets of names, and of bytes for each; drawn where there are more.
        """
        for names in self._namespaces(draw, limit):
            visible = sorted(set(names.values()) & set(self._bytes))
            options = [_losses(self._bytes[inode]) for inode in visible]
            for held in _some(draw, limit, options):
                yield self._tree(names, dict(zip(visible, held, strict=True)))

    def _take(self, number: int, operation: Operation) -> None:
        kind, names = operation.kind, operation.names
        if kind == "sync folder":
            self._sync_folder(names[0])
        elif kind in ("write", "truncate", "sync"):
            inode = self._opened.setdefault(operation.file, self._seen.get(names[0], 0))
            held = self._bytes[inode]
            if kind == "sync":
                del held[:-1]
            else:
                held.append(held[-1] + operation.data if kind == "write" else b"")
        else:
            inode = self._seen.get(names[0], number)
            if kind == "create":
                self._opened[operation.file] = inode
                self._bytes[inode] = [b""]
            elif kind == "mkdir":
                self._folders.add(inode)
            elif kind == "symlink":
                self._targets[inode] = os.fsdecode(operation.data)
            self.pending.append((operation, inode))
            _apply(self._seen, operation, inode)

    def _sync_folder(self, folder: str) -> None:
        for operation, inode in self.pending:
            if _folder(operation) == folder:
                _apply(self.safe, operation, inode)
        self.pending = [each for each in self.pending if _folder(each[0]) != folder]

    def _namespaces(self, draw: random.Random, limit: int) -> Iterator[dict[str, int]]:
        """Each pending operation done or not, but none without an earlier one on the same name."""
        known = set[str]()
        for choice in _some(draw, limit, [(True, False)] * len(self.pending)):
            names, missing, done = dict(self.safe), set[str](), ""
            for (operation, inode), chosen in zip(self.pending, choice, strict=True):
                if chosen and missing.isdisjoint(operation.names):
                    _apply(names, operation, inode)
                    done += "+"
                else:
                    missing.update(operation.names)
                    done += "-"
            if done not in known:
                known.add(done)
                yield names

    def _tree(self, names: Mapping[str, int], held: Mapping[int, bytes]) -> Tree:
        folders = {".", *(name for name, inode in names.items() if inode in self._folders)}
        return {
            name: self._targets.get(inode, held.get(inode))
            for name, inode in names.items()
            if folders.issuperset(_above(name))
        }


def _apply(names: dict[str, int], operation: Operation, inode: int) -> None:
    if operation.kind in ("unlink", "rename"):
        names.pop(operation.names[0], None)
    if operation.kind != "unlink":
        names[operation.names[-1]] = inode


def _folder(operation: Operation) -> str:
    return _above(operation.names[0])[0]


@cache
def _above(name: str) -> tuple[str, ...]:
    return tuple(map(str, Path(name).parents))


def _losses(held: Sequence[bytes]) -> list[bytes]:
    """What may be found of a file: nothing new, a prefix, zeros or stale bytes in new sectors."""
    first, last = held[0], held[-1]
    if len(held) == 1:
        return [last]
    kept = len(first) if last.startswith(first) else 0
    new = last[kept:]
    found = [last, *held, last[:-1], last[:kept] + bytes(len(new))]
    for at in {0, len(new) // 2, max(0, len(new) - _SECTOR)}:
        for sector in (bytes(_SECTOR), b"\xa5" * _SECTOR):
            found.append(last[:kept] + new[:at] + sector[: len(new) - at] + new[at + _SECTOR :])
    return list(dict.fromkeys(found))


def _some(
    draw: random.Random, limit: int, options: Sequence[Sequence[Any]]
) -> Iterator[tuple[Any, ...]]:
    """The product of `options`; when it is large, its first, the whole losses, and draws."""
    size = 1
    for option in options:
        size *= len(option)
    if size <= limit:
        yield from itertools.product(*options)
        return
    for n in range(len(options) + 1):
        yield tuple(option[0 if i < n else -1] for i, option in enumerate(options))
    for _ in range(limit - len(options) - 1):
        yield tuple(draw.choice(option) for option in options)
