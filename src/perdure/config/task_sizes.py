"""Number of classes of each task (initial classes, increment, class sizes), and epochs of each.

What can be checked from the command line alone is checked before any data are loaded; the rest once
the number of classes is known. Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any

from omegaconf import DictConfig, OmegaConf

from perdure.errors import UserError

KEYS = ("class_sizes", "initial_classes", "increment")
"""Keys of `dataset` that say how many classes the tasks have."""

_STREAMS = ("perdure.datasets.general.RotatingPairs",)
"""Scenarios of a single task."""

_SPELLINGS = (
    "dataset.class_sizes=[6,2,2], or dataset.initial_classes=6 and dataset.increment=2, give the "
    "sizes of the tasks"
)
_ELSEWHERE = {"first", "sizes", "initial", "init_cls", "initial_increment", "n_tasks", *KEYS}
"""Names under which a scenario of ours is asked for sizes, which are keys of `dataset`."""


def default_n_tasks(default: Any, *, _parent_: DictConfig) -> Any:
    """The resolver `${n_tasks:5}` of a benchmark's file: 5, unless sizes say how many tasks.

    None where that follows from the number of classes, which the data set alone knows; 1 where the
    scenario is one stream.
    """
    if OmegaConf.select(_parent_, "scenario._target_") in _STREAMS:
        return 1
    sizes = _parent_.get("class_sizes")
    if is_list(sizes) and sizes:
        return len(sizes)
    return default if _parent_.get("increment") is None else None


def check_sizes(dataset: Any) -> None:
    """Refuse sizes of tasks that cannot be, whatever the data set.

    Args:
        dataset: has `n_tasks`, `class_sizes`, `initial_classes` and `increment`.

    Raises:
        UserError: names the key and what is accepted.
    """
    sizes, n_tasks = dataset.class_sizes, dataset.n_tasks
    if n_tasks is not None and not _is_count(n_tasks):
        raise UserError(
            f"dataset.n_tasks={_shown(n_tasks)}: must be 1 or more, an integer; {_SPELLINGS}"
        )
    for key in KEYS[1:]:
        value = getattr(dataset, key)
        if value is not None and not _is_count(value):
            raise UserError(f"dataset.{key}={_shown(value)}: must be an integer, 1 or more")
    if sizes is None:
        return
    if not is_list(sizes) or not sizes or not all(map(_is_count, sizes)):
        raise UserError(
            f"dataset.class_sizes={_shown(sizes)}: must be a list of integers, the number of "
            "classes of each task, as in [6,2,2]"
        )
    for key in KEYS[1:]:
        if getattr(dataset, key) is not None:
            raise UserError(
                f"dataset.{key}={getattr(dataset, key)} with dataset.class_sizes={_shown(sizes)}: "
                "both say how many classes the tasks have; give one of them"
            )
    _require_n_tasks(n_tasks, len(sizes), f"dataset.class_sizes={_shown(sizes)}")


def sizes_of(
    n_classes: int,
    n_tasks: int | None = None,
    class_sizes: Sequence[int] | None = None,
    initial_classes: int | None = None,
    increment: int | None = None,
) -> tuple[int, ...]:
    """How many of `n_classes` classes each task has.

    Args:
        n_classes: classes of the data set.
        n_tasks: tasks; needed where nothing else says how many.
        class_sizes: the classes of each task, or
        initial_classes: the classes of the first task; the rest is divided equally, or by
        increment: the classes of each further task, of each task without `initial_classes`.

    Raises:
        UserError: they are not all classes, or contradict one another.
    """
    if class_sizes is not None:
        _require_sum(class_sizes, n_classes)
        return tuple(class_sizes)
    first = min(initial_classes or 0, n_classes)
    if initial_classes is not None and initial_classes > n_classes:
        raise UserError(
            f"dataset.initial_classes={initial_classes}: there are {n_classes} classes in all"
        )
    head = (first,) if first else ()
    if increment is not None:
        return _by_increment(n_classes, n_tasks, head, increment)
    if n_tasks is None:
        raise UserError("dataset.n_tasks=null: must be an integer where no sizes are given")
    return head + _equal_parts(n_classes - first, n_tasks - len(head), n_tasks, n_classes)


def _by_increment(
    n_classes: int, n_tasks: int | None, head: tuple[int, ...], increment: int
) -> tuple[int, ...]:
    further, left = divmod(n_classes - sum(head), increment)
    given = f"dataset.initial_classes={head[0]} and " if head else ""
    given += f"dataset.increment={increment}"
    if left:
        raise UserError(
            f"{given}: {left} of the {n_classes} classes are left over; choose numbers that divide "
            "them, or give dataset.class_sizes"
        )
    _require_n_tasks(n_tasks, len(head) + further, given)
    return head + (increment,) * further


def _equal_parts(n: int, parts: int, n_tasks: int, n_classes: int) -> tuple[int, ...]:
    """`n` in equal parts; the first ones get what is left over."""
    if n_tasks > n_classes:
        raise UserError(
            f"dataset.n_tasks={n_tasks}: there are {n_classes} classes, so at most as many tasks"
        )
    if n < parts or (n and not parts):
        raise UserError(
            f"dataset.initial_classes={n_classes - n} with dataset.n_tasks={n_tasks}: leaves {n} "
            f"classes for {parts} further tasks; choose other numbers, or give dataset.class_sizes"
        )
    return tuple(n // parts + (part < n % parts) for part in range(parts))


def _require_sum(sizes: Sequence[int], n_classes: int) -> None:
    if sum(sizes) != n_classes:
        raise UserError(
            f"dataset.class_sizes={_shown(sizes)}: add up to {sum(sizes)}, but there are "
            f"{n_classes} classes"
        )


def _require_n_tasks(n_tasks: int | None, found: int, given: str) -> None:
    if n_tasks not in (None, found):
        raise UserError(
            f"dataset.n_tasks={n_tasks}: {given} makes {found} tasks; leave dataset.n_tasks out, "
            "or set it to null where the benchmark's file has a number"
        )


def refuse_misplaced(scenario: Mapping[str, Any]) -> None:
    """Refuse sizes of tasks that are typed as options of one of our scenarios.

    Raises:
        UserError: names the keys that give them.
    """
    if not str(scenario.get("_target_")).startswith("perdure.datasets."):
        return
    for key in scenario:
        if key in _ELSEWHERE:
            raise UserError(
                f"dataset.scenario.{key}={_shown(scenario[key])}: is no option of the scenario; "
                f"{_SPELLINGS}"
            )


# --- epochs -----------------------------------------------------------------------------------


def are_epochs(value: Any) -> bool:
    """Whether `value` can be `dataset.epochs`: a number, one a task, or `first` and `rest`."""
    if isinstance(value, Mapping | DictConfig):
        return set(value) == {"first", "rest"} and all(_is_count(value[key]) for key in value)
    if is_list(value):
        return len(value) > 0 and all(map(_is_count, value))
    return _is_count(value)


def epochs_of(epochs: Any, task: int) -> int:
    """Epochs of `task`, where `epochs` is accepted by `are_epochs` and long enough."""
    if isinstance(epochs, Mapping):
        return int(epochs["rest" if task else "first"])
    return int(epochs[task] if is_list(epochs) else epochs)


def check_epochs(epochs: Any, n_tasks: int | None, joint: bool = False) -> None:
    """Refuse a list that does not have one entry a task, and several numbers for a joint run.

    Raises:
        UserError: says how many there must be.
    """
    if joint and not _is_count(epochs):
        raise UserError(
            f"dataset.epochs={_shown(epochs)} with training=joint: a joint run has a single task; "
            "must be an integer"
        )
    if is_list(epochs) and n_tasks is not None and len(epochs) != n_tasks:
        raise UserError(
            f"dataset.epochs={_shown(epochs)}: has {len(epochs)} entries, but there are {n_tasks} "
            "tasks; must be one a task, an integer, or {first: 160, rest: 20}"
        )


def is_list(value: Any) -> bool:
    """Whether `value` is a list, of a configuration too."""
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _is_count(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= 1


def _shown(value: Any) -> str:
    """As it is typed."""
    return "[" + ",".join(map(str, value)) + "]" if is_list(value) else str(value)
