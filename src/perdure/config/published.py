"""Published hyperparameters: which row of which table applies to a configuration, and why not.

A group's file marks a hyperparameter by `${published:<default>}`: the value of the row that applies
(`recipe`), else the default. A row applies by itself only where its whole protocol matches.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigNode, ConfigStore
from omegaconf import DictConfig, Node, OmegaConf

from perdure.config.folder import CONF
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

    def look_in(self, folders: Iterable[str | Path]) -> None:
        """Look in these folders too, before Perdure's own."""
        found = (*map(Path, folders), CONF)
        if found != self.folders:
            self.folders = found
            self._options.clear()
            self.__dict__.pop("tables", None)
            self.__dict__.pop("settings", None)

    @cached_property
    def tables(self) -> Sequence[Table]:
        """Every table, in the order in which they are asked.

        Raises:
            UserError: a file is no table.
        """
        paths = (p for folder in self.folders for p in sorted(folder.glob("published/*.yaml")))
        return sorted(map(read, paths), key=lambda table: table.collection)

    @cached_property
    def settings(self) -> Mapping[str, Setting]:
        """Every row by its name; of two of the same name the first."""
        found: dict[str, Setting] = {}
        for table in self.tables:
            for name, setting in table.settings.items():
                found.setdefault(name, setting)
        return found

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
        known = [s for s in self.settings.values() if recipe in ("auto", s.table.name)]
        return self._matching(config, [s for s in known if s.row.values is not None])

    def _exact(self, config: DictConfig, name: str) -> Choice:
        if name not in self.settings:
            return Choice(reason="there is no such setting")
        setting = self.settings[name]
        found = tuple(self.protocol(setting).differences(config))
        foreign = frozenset(d.key.partition(".")[0] for d in found if d.key.endswith("_target_"))
        return Choice(setting, "", foreign, found)

    def _matching(self, config: DictConfig, known: Sequence[Setting]) -> Choice:
        """The first of `known` whose whole protocol matches."""
        model, dataset = str(config.model.name), str(config.dataset.name)
        pair = f"{model} on {dataset}"
        known = [s for s in known if (s.row.method, s.benchmark.dataset) == (model, dataset)]
        if not known:
            return Choice(reason=f"none is known for {pair}")
        sized = [s for s in known if _has_size(config, s)]
        if not sized:
            sizes = ", ".join(dict.fromkeys(str(s.row.buffer or s.row.per_class) for s in known))
            size = f"buffer.size={config.buffer.size}"
            return Choice(reason=f"{size} was not published for {pair} ({sizes} were)")
        misses = []
        for setting in sized:
            found = [*self.protocol(setting).differences(config)]
            unknown = setting.benchmark.unknown
            if not found and not unknown:
                return Choice(setting)
            misses.append((len(found), setting, [*map(str, found)] or [_not_told(unknown)]))
        _, setting, reasons = min(misses, key=lambda miss: miss[0])
        more = len(reasons) - _SHOWN
        shown = ", ".join(reasons[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
        return Choice(reason=f"{setting.name} differs: {shown}")

    def protocol(self, setting: Setting) -> Protocol:
        """What must be the same for `setting` to apply."""
        return Protocol(setting, (CONF, *self.folders))

    def is_runnable(self, setting: Setting) -> bool:
        """Whether its hyperparameters are known, and its method and benchmark are part of this."""
        row = setting.row
        if row.values is None or row.per_class is not None:
            return False
        return self._has("model", row.method) and self._has("dataset", setting.benchmark.dataset)

    def _has(self, group: str, option: str) -> bool:
        """Whether there is such an option of `group`."""
        if (group, option) not in self._options:
            files = (folder / group / f"{option}.yaml" for folder in self.folders)
            self._options[group, option] = any(file.is_file() for file in files)
        return self._options[group, option]

    def store_experiments(self) -> None:
        """Make every setting that can be run an option of the group `experiment`."""
        group: dict[str, Any] = {}
        for setting in self.settings.values():
            if self.is_runnable(setting):
                paper = group.setdefault(setting.table.name, {})
                options = paper.setdefault(setting.benchmark.name, _Options())
                options[f"{setting.row.name}.yaml"] = setting
        ConfigStore.instance().repo["experiment"] = group


class _Options(dict):
    """Options of a group in the ConfigStore; each is made when it is asked for (2 ms)."""

    def __getitem__(self, file: str) -> ConfigNode:
        setting: Setting = super().__getitem__(file)
        node = OmegaConf.create(experiment(setting))
        group, _, _ = f"experiment/{setting.name}".rpartition("/")
        return ConfigNode(file, node, group, "_global_", provider=None)


def experiment(setting: Setting) -> dict[str, Any]:
    """The configuration file that chooses `setting`: its protocol, its row as the recipe."""
    protocol = setting.protocol
    groups = {"model": setting.row.method, "dataset": setting.benchmark.dataset}
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
    row = setting.row
    if row.per_class is not None:
        return bool(OmegaConf.select(config, "buffer.per_class") == row.per_class)
    return row.buffer is None or bool(config.buffer.size == row.buffer)


def _not_told(unknown: Sequence[str]) -> str:
    return f"its source does not tell {', '.join(unknown)}"
