"""Mammoth's replay buffer in a checkpoint: its rows and its reservoir count (num_seen_examples).

Mammoth saves the rows alone. How many examples they were drawn from, which a reservoir needs to
replace them fairly, follows from the stored arguments where these leave no doubt.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from perdure.buffers.base import Buffer
from perdure.buffers.reservoir import Reservoir
from perdure.checkpoint.interop.foreign import Opened
from perdure.errors import UserError

_PIXEL_TOLERANCE = 1e-3

_EXAMPLES = {
    "seq-mnist": (12_665, 12_089, 11_263, 12_183, 11_800),
    "perm-mnist": (60_000,) * 20,
    "rot-mnist": (60_000,) * 20,
    "seq-cifar10": (10_000,) * 5,
    "seq-cifar100": (5_000,) * 10,
    "seq-tinyimg": (10_000,) * 10,
}
"""Mammoth's name of a benchmark → training examples of each task, as it splits them by default."""

_OFFERS_EACH_BATCH = ("er", "er_ace", "der", "derpp")
"""Mammoth's methods that offer every training batch to the buffer, once."""

_WHOLE = {
    "loadcheck": None,
    "start_from": None,
    "dataset_config": None,
    "validation": None,
    "label_perc": 1,
    "label_perc_by_class": 1,
    "fitting_mode": "epochs",
    "n_iters": None,
    "drop_last": False,
    "joint": False,
    "debug_mode": False,
    "inference_only": False,
}
"""Mammoth's arguments with which a task is trained on all its examples, from a fresh start."""

_MOST_EPOCHS = 100_000
_REORDERED = ("permute_classes", "custom_class_order", "custom_task_order")
_TASK = re.compile(r".*_(?:task)?(\d+|last)")
"""How the names of Mammoth's files end, but for those of interrupted runs."""


def take_buffer(
    opened: Opened,
    buffer: Buffer,
    *,
    fields: Sequence[str] = (),
    shape: tuple[int, int, int] | None = None,
    seen: int | None = None,
    device: torch.device | str = "cpu",
) -> list[str]:
    """Put the rows of a Mammoth checkpoint's buffer into `buffer`, and report what was taken.

    Mammoth stores images as float32 in [0, 1], here they are bytes again. Rows that it never
    filled (all zeros, at the end) are left out.

    Args:
        opened: the checkpoint.
        buffer: one with the policy `Reservoir` and room for all rows.
        fields: what to take besides images and labels: `logits`, `task_labels`.
        shape: (C, H, W) of the benchmark's images, to be sure that they are these.
        seen: how many examples the rows were drawn from; None derives it where that is certain,
            and else counts the rows themselves.
        device: where the rows go.

    Raises:
        UserError: there are no such rows, or they do not fit.
    """
    where, rows = f"{opened.path}: its buffer", opened.buffer
    needed = ("examples", "labels", *fields)
    if opened.kind != "mammoth" or not set(needed) <= rows.keys():
        held = ", ".join(rows) or "nothing"
        raise UserError(f"{where} holds {held}; needed are Mammoth's {', '.join(needed)}")
    images = rows["examples"]
    if images.ndim != 4 or len({rows[name].shape[:1] for name in needed}) > 1:
        raise UserError(f"{where} does not hold images with a row of all else for each")
    filled = images.flatten(1).any(1).nonzero()
    n = int(filled[-1]) + 1 if len(filled) else 0
    _check_rows(where, buffer, n, n if seen is None else seen)
    rows_taken = {
        "raw": _to_bytes(where, images[:n], shape),
        "y": rows["labels"][:n].to(torch.int64),
        **{name: rows[name][:n] for name in fields},
    }
    derived = _derived(opened, n) if seen is None else None
    count = derived or seen or n
    state = {"size": buffer.size, "seen": count, "filled": n}
    buffer.load_state_dict({**state, "fields": rows_taken}, device)
    report = [f"took {n:,} rows of {opened.path.name}'s buffer"]
    return report if seen is not None else [*report, _account(opened, n, derived)]


def _account(opened: Opened, n: int, derived: int | None) -> str:
    if derived is None:
        return (
            "Mammoth does not save how many examples a buffer's rows were drawn from: that counts "
            f"as {n:,}, and the next task will replace more of them than it should"
        )
    dataset, epochs = opened.args["dataset"], opened.args["n_epochs"]
    return (
        f"its rows were drawn from {derived:,} examples, as its arguments say: "
        f"{_tasks_done(opened, len(_EXAMPLES[dataset]))} tasks of {dataset}, n_epochs={epochs}"
    )


def _check_rows(where: str, buffer: Buffer, n: int, seen: int) -> None:
    if not isinstance(buffer.policy, Reservoir):
        raise UserError(f"{where} can be taken by buffer=reservoir alone")
    if not 0 < n <= buffer.size:
        raise UserError(f"{where} holds {n} rows, and buffer.size={buffer.size}")
    if seen < n or (seen > n and n < buffer.size):
        raise UserError(f"{where} holds {n} rows of {buffer.size}, which cannot be of {seen} seen")


def _to_bytes(where: str, images: Tensor, shape: tuple[int, int, int] | None) -> Tensor:
    """float [n, C, H, W] in [0, 1] → uint8."""
    if shape not in (None, tuple(images.shape[1:])):
        raise UserError(f"{where} holds images of {tuple(images.shape[1:])}, needed are {shape}")
    scaled = images.to(torch.float32) * 255
    raw = scaled.round().clamp_(0, 255)
    if not (scaled - raw).abs().max() <= 255 * _PIXEL_TOLERANCE:  # NaN is refused too
        raise UserError(f"{where} holds no images of bytes scaled to [0, 1]")
    return raw.to(torch.uint8)


# --- the reservoir count ----------------------------------------------------------------------


def _derived(opened: Opened, n: int) -> int | None:
    """How many examples `n` filled rows were drawn from; None where that is not certain."""
    args = opened.args
    dataset, epochs = args.get("dataset"), args.get("n_epochs")
    sizes = _EXAMPLES.get(dataset) if isinstance(dataset, str) else None
    model = args.get("model")
    if sizes is None or not isinstance(model, str) or model not in _OFFERS_EACH_BATCH:
        return None
    if type(epochs) is not int or not 1 <= epochs <= _MOST_EPOCHS or not _is_whole(args):
        return None
    if len(set(sizes)) > 1 and not all(_is_usual(args.get(key), None) for key in _REORDERED):
        return None
    tasks = _tasks_done(opened, len(sizes))
    if tasks is None:
        return None
    seen = epochs * sum(sizes[:tasks])
    # A reservoir that has seen so many is full.
    return seen if n == len(opened.buffer["examples"]) <= seen else None


def _is_whole(args: dict[str, Any]) -> bool:
    """Whether tasks were trained on all their examples; an argument that is not there is usual."""
    return all(_is_usual(args.get(key, usual), usual) for key, usual in _WHOLE.items())


def _is_usual(value: Any, usual: Any) -> bool:
    """Mammoth writes None, 0 and False for what is off; `value` is of any type."""
    if not isinstance(value, str | int | float | None):
        return False
    return value == usual or not (value or usual)


def _tasks_done(opened: Opened, n_tasks: int) -> int | None:
    """How many tasks were trained, where the file's name and the accuracies in it agree.

    The file of an interrupted run has rows of a task that is not over, and no number in its name.
    """
    match = _TASK.fullmatch(opened.path.stem)
    matrix = opened.results[0] if isinstance(opened.results, list) and opened.results else None
    stop_after = opened.args.get("stop_after")
    if match is None or not isinstance(matrix, list) or not isinstance(stop_after, int | None):
        return None
    named = (stop_after or n_tasks) if match[1] == "last" else int(match[1]) + 1
    measured = [isinstance(row, list) and len(row) == i + 1 for i, row in enumerate(matrix)]
    return named if all(measured) and named == len(measured) <= n_tasks else None
