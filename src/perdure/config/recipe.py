"""Notices on published hyperparameters: which setting applies, departures from it, or why none."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NoReturn

from omegaconf import DictConfig, OmegaConf

from perdure.config.compare import listed
from perdure.config.method_name import method_name
from perdure.config.protocol import ABSENT, Difference, plain, shown
from perdure.config.published import Choice, published
from perdure.config.suggestions import nearest
from perdure.config.tables import Setting
from perdure.errors import UserError


def notices(config: DictConfig) -> list[str]:
    """What the user should know before the run starts, one sentence each.

    Raises:
        UserError: `recipe` names a setting that cannot be applied.
    """
    choice = published.choose(config)
    recipe = str(config.recipe)
    if choice.setting is None:
        if recipe not in ("auto", "none"):
            _refuse(recipe, choice.reason)
        return list(_nothing(choice))
    if "/" in recipe:
        _require_row(config, choice.setting)
    return list(_applied(config, choice, choice.setting))


def _nothing(choice: Choice) -> Iterator[str]:
    if choice.reason:
        yield f"no published setting applies: {choice.reason}; the groups' own defaults are used"


def _applied(config: DictConfig, choice: Choice, setting: Setting) -> Iterator[str]:
    """The setting, and each departure from it."""
    yield f"published setting {setting.name}: {setting.table.source}"
    for difference in choice.differences:
        yield _departs(difference, setting)
    for key, value in setting.values.items():
        now = plain(OmegaConf.select(config, key, default=ABSENT))
        if key.partition(".")[0] in choice.foreign or now == listed(value):
            continue
        if now is not ABSENT and published.protocol(setting).default(key) == now:
            group, _, name = key.partition(".")
            yield (
                f"{key}={shown(now)} is fixed in the group's file, so the published {shown(value)} "
                f"does not apply; write `{name}: ${{published:{shown(now)}}}` there ({group})"
            )
        else:
            yield _departs(Difference(key, now, value), setting)


def _departs(difference: Difference, setting: Setting) -> str:
    published_value = shown(difference.published)
    return f"{difference.typed} departs from {setting.name} (published: {published_value})"


def _require_row(config: DictConfig, setting: Setting) -> None:
    """Refuse an exact setting with the method, benchmark or buffer size of another."""
    row, name = setting.row, setting.name
    for key, now, meant in (
        ("model", method_name(config), row.method),
        ("dataset", config.dataset.name, setting.benchmark.dataset),
    ):
        if now != meant:
            raise UserError(
                f"{key}={now} with experiment={name}: must be {meant}; leave the experiment out to "
                f"choose another {key}"
            )
    size = config.buffer.size
    if row.buffer is None or size == row.buffer:
        return
    for other in setting.benchmark.rows:
        if (other.method, other.buffer) == (row.method, size) and other.values is not None:
            better = f"{setting.table.name}/{setting.benchmark.name}/{other.name}"
            raise UserError(
                f"buffer.size={size} with experiment={name}: must be {row.buffer}; for {size}, "
                f"choose experiment={better}"
            )


def _refuse(recipe: str, reason: str) -> NoReturn:
    names = [*published.settings, *published.papers]
    if recipe in names:
        raise UserError(f"recipe={recipe}: does not apply: {reason}; recipe=none takes no setting")
    near = nearest(recipe, names)
    raise UserError(
        f"recipe={recipe}: there is no such published setting{near}; must be auto, none, or a name "
        "that `perdure published` lists"
    )
