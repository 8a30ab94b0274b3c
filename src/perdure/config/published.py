"""Published hyperparameters: which row of which table applies to a configuration, and why not.

A group's file marks a hyperparameter by `${published:<default>}`: the value of the row that applies
(`recipe`), else the default. A row applies by itself only where its whole protocol matches.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigNode, ConfigStore
from omegaconf import DictConfig, Node, OmegaConf

from perdure.config.folder import CONF
from perdure.config.method_name import method_name, options_of
from perdure.config.protocol import GROUPS, Difference, Protocol
from perdure.config.tables import Setting, Table, read

_SHOWN = 4


@dataclass(frozen=True)
class Choice:
    """What `recipe` selects for a configuration.

    Attributes:
        setting: the row that applies; None if none does.
        reason: why none does, in a clause.
        foreign: groups of another class than the row's, whose values do not apply.
        differences: where the configuration departs from the protocol of an exact setting.
    """

    setting: Setting | None = None
    reason: str = ""
    foreign: frozenset[str] = frozenset()
    differences: tuple[Difference, ...] = ()

    def value(self, key: str, default: Any) -> Any:
        """The published value of `key`, else `default`."""
        if self.setting is None or key.partition(".")[0] in self.foreign:
            return default
        return self.setting.values.get(key, default)


class Published:
    """The published settings in the folders of configuration files, and the resolver `published`.

    Attributes:
        folders: where `published/*.yaml` and the files of the groups are looked for.
    """

    def __init__(self, *folders: Path) -> None:
        self.folders = folders or (CONF,)
        self._options: dict[tuple[str, str], bool] = {}
        self._tables: dict[Path, Table] = {}
        self._protocols: dict[str, Protocol] = {}

    def look_in(self, folders: Iterable[str | Path]) -> None:
        """Look in these folders too, before Perdure's own."""
        found = (*map(Path, folders), CONF)
        if found != self.folders:
            self.folders = found
            self._options.clear()
            self._tables.clear()
            self._protocols.clear()
            self.__dict__.pop("_files", None)
            self.__dict__.pop("settings", None)

    @cached_property
    def _files(self) -> Mapping[Path, str]:
        """The tables' files and what they hold, in the order in which they are asked."""
        paths = (p for folder in self.folders for p in sorted(folder.glob("published/*.yaml")))
        texts = {path: path.read_text(errors="replace") for path in paths}
        return dict(sorted(texts.items(), key=lambda item: "\ncollection: true" in item[1]))

    def table(self, path: Path) -> Table:
        """The table in the file `path`; reading one takes up to 30 ms, so none is read in vain.

        Raises:
            UserError: it is no table.
        """
        if path not in self._tables:
            self._tables[path] = read(path)
        return self._tables[path]

    @property
    def papers(self) -> Mapping[str, Path]:
        """The names of the tables, and their files; of two of the same name the first counts."""
        found: dict[str, Path] = {}
        for path in self._files:
            found.setdefault(path.stem, path)
        return found

    @cached_property
    def settings(self) -> Mapping[str, Setting]:
        """Every row of every table by its name.

        Raises:
            UserError: a file is no table.
        """
        tables = [self.table(path) for path in self.papers.values()]
        return {name: s for table in tables for name, s in table.settings.items()}

    def _named(self, name: str) -> Setting | None:
        """The row called `name`."""
        path = self.papers.get(name.partition("/")[0])
        return None if path is None else self.table(path).settings.get(name)

    def _about(self, dataset: str, recipe: str) -> Iterator[Setting]:
        """Rows with hyperparameters of a benchmark, paper by paper; all that `recipe` admits."""
        for path, text in self._files.items():
            if dataset in text and recipe in ("auto", path.stem):
                rows = self.table(path).settings.values()
                yield from (s for s in rows if s.benchmark.dataset == dataset)

    def __call__(self, default: Any, *, _node_: Node, _root_: DictConfig) -> Any:
        """`${published:<default>}`: the published value of the key where it stands."""
        return self.choose(_root_).value(str(_node_._get_full_key(None)), default)

    def choose(self, config: DictConfig) -> Choice:
        """What `config.recipe` selects; says why if that is nothing."""
        recipe = str(OmegaConf.select(config, "recipe", default="none"))
        if recipe == "none" or OmegaConf.select(config, "model.name") is None:
            return Choice()
        if "/" in recipe:
            return self._exact(config, recipe)
        return self._matching(config, recipe)

    def _exact(self, config: DictConfig, name: str) -> Choice:
        setting = self._named(name)
        if setting is None:
            return Choice(reason="there is no such setting")
        found = tuple(self.protocol(setting).differences(config))
        foreign = frozenset(d.key.partition(".")[0] for d in found if d.key.endswith("_target_"))
        return Choice(setting, "", foreign, found)

    def _matching(self, config: DictConfig, recipe: str) -> Choice:
        """The first row that `recipe` admits whose whole protocol matches."""
        model, dataset = method_name(config), str(config.dataset.name)
        sizes: dict[str, None] = {}
        misses = []
        for setting in self._about(dataset, recipe):
            if setting.row.method != model or setting.row.values is None:
                continue
            sizes[str(setting.row.buffer or setting.row.per_class)] = None
            if _has_size(config, setting):
                found = [*self.protocol(setting).differences(config)]
                unknown = setting.benchmark.unknown
                if not found and not unknown:
                    return Choice(setting)
                misses.append((bool(unknown), len(found), setting, found))
        pair = f"{model} on {dataset}"
        if misses:
            *_, setting, found = min(misses, key=lambda miss: miss[:2])
            return Choice(reason=f"{setting.name} differs: {_listed(setting, found)}")
        if sizes:
            per_class = OmegaConf.select(config, "buffer.per_class")
            size = f"buffer.size={config.buffer.size}"
            size = size if per_class is None else f"buffer.per_class={per_class}"
            return Choice(reason=f"{size} was not published for {pair} ({', '.join(sizes)} were)")
        return Choice(reason=f"none is known for {pair}")

    def protocol(self, setting: Setting) -> Protocol:
        """What must be the same for `setting` to apply."""
        # Every hyperparameter asks for it; its files are read once.
        if setting.name not in self._protocols:
            self._protocols[setting.name] = Protocol(setting, (CONF, *self.folders))
        return self._protocols[setting.name]

    def is_runnable(self, setting: Setting) -> bool:
        """Whether its hyperparameters are known, and its method and benchmark are part of this."""
        row = setting.row
        if row.values is None or row.per_class is not None:
            return False
        needed = {**options_of(row.method), "dataset": setting.benchmark.dataset}
        return all(self._has(group, option) for group, option in needed.items())

    def _has(self, group: str, option: str) -> bool:
        """Whether there is such an option of `group`."""
        if (group, option) not in self._options:
            files = (folder / group / f"{option}.yaml" for folder in self.folders)
            self._options[group, option] = any(file.is_file() for file in files)
        return self._options[group, option]

    def store_experiments(self) -> None:
        """Make every setting that can be run an option of the group `experiment`."""
        ConfigStore.instance().repo["experiment"] = _Papers(self)


class _Papers(dict):
    """The papers in the ConfigStore's group `experiment`, each read when it is asked for."""

    def __init__(self, published: Published) -> None:
        super().__init__(published.papers)
        self._published = published

    def __getitem__(self, paper: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for setting in self._published.table(super().__getitem__(paper)).settings.values():
            if self._published.is_runnable(setting):
                options = found.setdefault(setting.benchmark.name, _Rows())
                options[f"{setting.row.name}.yaml"] = setting
        return found


class _Rows(dict):
    """The rows of a paper on a benchmark, each made an option when it is asked for (2 ms)."""

    def __getitem__(self, file: str) -> ConfigNode:
        setting: Setting = super().__getitem__(file)
        node = OmegaConf.create(experiment(setting))
        group, _, _ = f"experiment/{setting.name}".rpartition("/")
        return ConfigNode(file, node, group, "_global_", provider=None)


def experiment(setting: Setting) -> dict[str, Any]:
    """The configuration file that chooses `setting`: its protocol, its row as the recipe."""
    protocol = setting.protocol
    groups = {**options_of(setting.row.method), "dataset": setting.benchmark.dataset}
    groups |= {group: protocol[group] for group in GROUPS if group in protocol}
    node: dict[str, Any] = {
        "defaults": [{f"override /{group}": option} for group, option in groups.items()],
        "recipe": setting.name,
    }
    keys = {key: value for key, value in protocol.items() if key not in groups}
    if setting.row.buffer is not None:
        keys["buffer.size"] = setting.row.buffer
    for key, value in keys.items():
        group, _, rest = key.partition(".")
        at = node
        *above, last = [*GROUPS.get(group, group).split("."), *rest.split(".")]
        for part in above:
            at = at.setdefault(part, {})
        at[last] = value
    return node


published = Published()
"""One a process: Hydra calls resolvers by name, so all compositions find the tables here."""


def _has_size(config: DictConfig, setting: Setting) -> bool:
    row, per_class = setting.row, OmegaConf.select(config, "buffer.per_class")
    if row.per_class is not None:
        return bool(per_class == row.per_class)
    return row.buffer is None or (per_class is None and bool(config.buffer.size == row.buffer))


def _listed(setting: Setting, found: Sequence[Difference]) -> str:
    """The first differences; without any, what the source does not tell."""
    if not found:
        return f"its source does not tell {', '.join(setting.benchmark.unknown)}"
    more = len(found) - _SHOWN
    return ", ".join(map(str, found[:_SHOWN])) + (f" and {more} more" if more > 0 else "")
