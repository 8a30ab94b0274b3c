"""Tables of published settings: the hyperparameters and accuracies of a paper, read from a file.

A table is `published/<paper>.yaml` in a folder of configuration files: where it is from, and per
benchmark a *protocol* (what must be the same for the numbers to hold) and *rows* (a method and a
buffer size, with their hyperparameters and figures). conf/published/README.md describes the format.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import yaml

from perdure.config.yaml_data import LOADER
from perdure.errors import UserError

ORIGINS = {
    "paper": "read in the paper",
    "copy": "quoted by a later text",
    "recalled": "written down from memory, to be checked before it is quoted",
    "rerun": "the named code, run again",
    "claimed": "what the named code or its documentation says of itself",
    "plot": "read off a plot",
}
"""How sure a figure is."""

PARTS = ("model", "addon", "optimizer", "buffer")
"""Groups in which a row may set hyperparameters."""

_T = TypeVar("_T")


@dataclass(frozen=True)
class Figure:
    """One published number.

    Attributes:
        metric: its key in results.json, `average_accuracy.class_il`.
        mean: percent, over `n` runs.
        std: standard deviation over them, in percentage points.
        n: number of runs; None where it is not known.
        origin: a key of `ORIGINS`.
        by: the code or the text that gave it, where that is not the paper.
    """

    metric: str
    mean: float
    origin: str
    std: float | None = None
    n: int | None = None
    by: str | None = None


@dataclass(frozen=True)
class Row:
    """A method at a buffer size.

    Attributes:
        method: option of the group `model`; `x+y` is with the option y of the group `addon`.
        buffer: `buffer.size`; None for a method without a buffer.
        per_class: `buffer.per_class`, where the buffer's size grows with the classes.
        name: unlike any other row's of the benchmark.
        values: hyperparameters by key; None where only figures are known.
        protocol: where the row departs from its benchmark's protocol.
        figures: what was published of it.
        bands: metric → lowest and highest mean, in percent, that `perdure reproduce` accepts.
        note: what a reader should know.
    """

    method: str
    name: str = ""
    buffer: int | None = None
    per_class: int | None = None
    values: Mapping[str, Any] | None = None
    protocol: Mapping[str, Any] = field(default_factory=dict)
    figures: Sequence[Figure] = ()
    bands: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class Benchmark:
    """What a paper did on one benchmark.

    Attributes:
        name: unlike any other's of the paper; the benchmark's, where there is one protocol.
        dataset: option of the group `dataset`.
        protocol: option of each group, or value of a key: `optimizer: sgd`, `dataset.epochs: 1`.
        unknown: keys and groups of the protocol that the source does not tell.
        rows: its settings.
        note: what a reader should know.
    """

    name: str
    dataset: str
    protocol: Mapping[str, Any]
    rows: Sequence[Row]
    unknown: Sequence[str] = ()
    note: str = ""


@dataclass(frozen=True)
class Table:
    """A publication.

    Attributes:
        name: that of its file.
        source: authors, year and venue, in one line.
        title: of the paper.
        url: where to read it.
        code: where the hyperparameters are from.
        benchmarks: what it did.
        collection: whether it collects the settings of others, and is asked after the papers.
    """

    name: str
    source: str
    benchmarks: Sequence[Benchmark]
    title: str = ""
    url: str = ""
    code: str = ""
    collection: bool = False

    @cached_property
    def settings(self) -> Mapping[str, Setting]:
        """Every row by its name, `<paper>/<benchmark>/<row>`."""
        return {
            f"{self.name}/{benchmark.name}/{row.name}": Setting(self, benchmark, row)
            for benchmark in self.benchmarks
            for row in benchmark.rows
        }


@dataclass(frozen=True)
class Setting:
    """A row together with its benchmark and its table."""

    table: Table
    benchmark: Benchmark
    row: Row

    @property
    def name(self) -> str:
        """`<paper>/<benchmark>/<row>`: what `experiment=` and `recipe=` take."""
        return f"{self.table.name}/{self.benchmark.name}/{self.row.name}"

    @cached_property
    def protocol(self) -> Mapping[str, Any]:
        """The benchmark's, as the row amends it."""
        return {**self.benchmark.protocol, **self.row.protocol}

    @property
    def values(self) -> Mapping[str, Any]:
        """The hyperparameters by key."""
        return self.row.values or {}


def read(path: Path) -> Table:
    """The table in the file `path`.

    Raises:
        UserError: it cannot be read, or is no such table; names the place and what is accepted.
    """
    try:
        content = yaml.load(path.read_bytes(), LOADER)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: no table of published settings ({reason})") from None
    return _Reader(path).table(content)


class _Reader:
    """Turns the plain content of the file `path` into a table."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def table(self, content: Any) -> Table:
        node = self._mapping(content, "")
        benchmarks = self._mapping(node.get("benchmarks"), "benchmarks")
        found = [self._benchmark(str(name), inner) for name, inner in benchmarks.items()]
        return self._made(Table, {**node, "name": self.path.stem, "benchmarks": found}, "")

    def _benchmark(self, name: str, content: Any) -> Benchmark:
        at = f"benchmarks.{name}"
        node = {"dataset": name, **self._mapping(content, at), "name": name}
        self._protocol(node.get("protocol"), f"{at}.protocol")
        rows = [
            self._row(row, f"{at}.rows[{i}]")
            for i, row in enumerate(self._list(node.get("rows"), f"{at}.rows"))
        ]
        names = [row.name for row in rows]
        for repeated in {n for n in names if names.count(n) > 1}:
            self._refuse(f"{at}.rows", f"two rows are called {repeated}; set `name` in one")
        return self._made(Benchmark, {**node, "rows": rows}, at)

    def _row(self, content: Any, at: str) -> Row:
        node = dict(self._mapping(content, at))
        size = node.get("buffer") or node.get("per_class")
        node.setdefault("name", "-".join(str(part) for part in (node.get("method"), size) if part))
        for key in node.get("values") or {}:
            if str(key).partition(".")[0] not in PARTS or "." not in str(key):
                accepted = ", ".join(f"{part}.…" for part in PARTS)
                self._refuse(f"{at}.values.{key}", f"must be {accepted}; else it is protocol")
        self._protocol(node.get("protocol", {}), f"{at}.protocol")
        figures = enumerate(self._list(node.get("figures", []), f"{at}.figures"))
        node["figures"] = [self._figure(figure, f"{at}.figures[{i}]") for i, figure in figures]
        return self._made(Row, node, at)

    def _figure(self, content: Any, at: str) -> Figure:
        figure = self._made(Figure, self._mapping(content, at), at)
        if figure.origin not in ORIGINS:
            self._refuse(f"{at}.origin={figure.origin}", f"must be {', '.join(ORIGINS)}")
        if type(figure.mean) not in (int, float):
            self._refuse(f"{at}.mean={figure.mean}", "must be a float (percent)")
        return figure

    def _protocol(self, content: Any, at: str) -> None:
        for key in self._mapping(content, at):
            if not isinstance(key, str):
                self._refuse(f"{at}.{key}", "must be a group or a key")

    def _made(self, kind: type[_T], node: Mapping[Any, Any], at: str) -> _T:
        known = {f.name: f for f in fields(kind)}  # type: ignore[arg-type]
        for key in node:
            if key not in known:
                self._refuse(f"{at}.{key}".lstrip("."), f"must be one of {', '.join(known)}")
        for name, f in known.items():
            if name not in node and f.default is MISSING and f.default_factory is MISSING:
                self._refuse(f"{at}.{name}".lstrip("."), "is missing")
        return kind(**node)

    def _mapping(self, content: Any, at: str) -> Mapping[Any, Any]:
        if not isinstance(content, Mapping):
            self._refuse(at or "the file", "must have keys")
        return dict(content)

    def _list(self, content: Any, at: str) -> Iterator[Any]:
        if not isinstance(content, list):
            self._refuse(at, "must be a list")
        return iter(content)

    def _refuse(self, where: str, sentence: str) -> Any:
        raise UserError(f"{self.path}: {where}: {sentence}")
