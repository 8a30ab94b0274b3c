"""A user's folder of configuration files: every group, however the folder is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from lab import composed, make_lab
from omegaconf import DictConfig, OmegaConf

from perdure.config.folder import CONF


def plain(config: DictConfig, group: str) -> Any:
    node: Any = config
    for name in group.split("/"):
        node = node.get(name)
    return OmegaConf.to_container(node, resolve=False) if node is not None else None


DEFAULT = composed()
CHOSEN = {
    group: option
    for group, option in DEFAULT.hydra.runtime.choices.items()
    if (CONF / group / f"{option}.yaml").is_file()
}
"""The options of the default run that are files of ours, by their groups."""


def test_every_group_of_ours_is_among_them() -> None:
    groups = {path.name for path in CONF.iterdir() if path.is_dir()}
    unset = {g for g, option in DEFAULT.hydra.runtime.choices.items() if option in (None, "null")}
    # Tables, Hydra's own groups, and a person's own options.
    assert groups - unset - {"published", "hydra", "local"} <= set(CHOSEN)


@pytest.mark.parametrize("how", ["--config-dir={}", "hydra.searchpath=[file://{}]", "pkg"])
@pytest.mark.parametrize("group", CHOSEN)
def test_an_option_of_a_user_s_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, group: str, how: str
) -> None:
    conf = make_lab(tmp_path).rename(tmp_path / f"conf_{group.replace('/', '_')}")
    text = (CONF / group / f"{CHOSEN[group]}.yaml").read_text()
    (conf / group).mkdir(parents=True, exist_ok=True)
    (conf / group / "own.yaml").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    where = f"hydra.searchpath=[pkg://{conf.name}]" if how == "pkg" else how.format(conf)
    mine = composed(where, f"{group}=own")
    assert mine.hydra.runtime.choices[group] == "own"
    assert plain(mine, group) == plain(DEFAULT, group)
