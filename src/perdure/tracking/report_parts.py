"""What report.html of a run and of many runs are made of: sections, tables, lists of facts."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from html import escape
from typing import Any
from urllib.parse import quote

from perdure.tracking.drawing import Drawing, to_svg
from perdure.tracking.formatting import byte_size


def section(heading: str, content: str) -> str:
    """A part of the page; nothing where it has no content."""
    return f"<section><h2>{heading}</h2>{content}</section>" if content else ""


def flattened(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(`buffer.size`, 500), …: the leaves of a nested config under their dotted names."""
    if not isinstance(config, dict) or not config:
        yield prefix, config
        return
    for key, value in config.items():
        yield from flattened(value, f"{prefix}.{key}" if prefix else str(key))


def table(header: Sequence[str], rows: Sequence[tuple[str, Sequence[str], str]]) -> str:
    """Rows of a name, values, and what the name means, which is shown below it."""
    if not rows:
        return ""
    heads = "".join(f'<th scope="col">{escape(name)}</th>' for name in header)
    body = "".join(
        f'<tr><th scope="row">{escape(name)}{_meaning(meaning)}</th>'
        f"{''.join(f'<td>{escape(value)}</td>' for value in values)}</tr>"
        for name, values, meaning in rows
    )
    return (
        f'<div class="scroll"><table class="metrics"><thead><tr>{heads}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _meaning(text: str) -> str:
    return f"<small>{escape(text)}</small>" if text else ""


def facts(pairs: Iterable[tuple[str, Any]], folded: str = "", marked: Collection[str] = ()) -> str:
    """A list of names and values; nothing of none.

    Args:
        pairs: what is listed.
        folded: what the list is, in a line that opens and closes it.
        marked: names that were typed, or whose group's option was.
    """
    rows = "".join(
        f"<div{_mark(name, marked)}><dt>{escape(name)}</dt><dd>{escape(shown(value))}</dd></div>"
        for name, value in pairs
    )
    if not rows:
        return ""
    listing = f'<dl class="facts">{rows}</dl>'
    if not folded:
        return listing
    return f"<details open><summary>{escape(folded)}</summary>{listing}</details>"


def _mark(name: str, typed: Collection[str]) -> str:
    """The class of a key that was typed, or that names what was chosen from its group."""
    group, _, last = name.rpartition(".")
    is_typed = name in typed or (group in typed and last in ("name", "_target_", "mode"))
    return ' class="typed"' if is_typed else ""


def shown(value: Any) -> str:
    """A value as text."""
    return value if isinstance(value, str) else json.dumps(value, default=str)


def cards(pairs: Iterable[tuple[str, str]]) -> str:
    """The numbers that are read first."""
    items = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in pairs
    )
    return f'<dl class="cards">{items}</dl>' if items else ""


def headline(sentences: Iterable[str]) -> str:
    """What the page says, in plain words."""
    text = " ".join(sentences)
    return f'<p class="headline">{escape(text)}</p>' if text else ""


def notices(sentences: Iterable[str]) -> str:
    """Warnings, one a paragraph."""
    return "".join(f'<p class="notice">{escape(text)}</p>' for text in sentences)


def chart(drawing: Drawing, caption: str, own_size: bool = False) -> str:
    """A drawing with a caption; one at its own size, which a phone scrolls, is on white."""
    svg = to_svg(drawing, inline=True)
    if own_size:
        svg = f'<div class="paper" style="width:{drawing.width:.0f}px">{svg}</div>'
    return (
        f"<figure><figcaption>{escape(caption)}</figcaption>"
        f'<div class="scroll{"" if own_size else " chart"}">{svg}</div></figure>'
    )


def side_by_side(figures: Iterable[str]) -> str:
    """Figures beside each other where the page is wide enough."""
    found = "".join(figures)
    return f'<div class="side">{found}</div>' if found else ""


def command(text: str) -> str:
    """A command line, to be copied."""
    return f'<pre class="command"><code>{escape(text)}</code></pre>'


def file_item(name: str, n_bytes: int) -> str:
    """A link to a file, by its path from the page, with its size."""
    link = f'<a href="{escape(quote(name))}">{escape(name)}</a>'
    return f"<li>{link} <span>{byte_size(n_bytes)}</span></li>"


PROTOCOL = {
    "dataset.name": "benchmark",
    "dataset.scenario._target_": "scenario",
    "dataset.n_tasks": "tasks",
    "dataset.initial_classes": "classes of the first task",
    "dataset.increment": "classes of each further task",
    "dataset.epochs": "epochs a task",
    "dataset.iterations": "steps a task",
    "dataset.batch_size": "batch size",
    "dataset.transform._target_": "transform",
    "dataset.class_order": "class order",
    "dataset.seed": "seed of the benchmark",
    "dataset.validation": "share held out for validation",
    "dataset.noise.rate": "share of wrong labels",
    "dataset.imbalance": "class imbalance",
    "dataset.stop_after": "tasks trained",
    "backbone._target_": "backbone",
    "head._target_": "head",
    "head.growing": "growing head",
    "optimizer._target_": "optimizer",
    "optimizer.lr": "learning rate",
    "optimizer.momentum": "momentum",
    "optimizer.weight_decay": "weight decay",
    "scheduler._target_": "scheduler",
    "buffer._target_": "buffer policy",
    "buffer.size": "buffer size",
    "buffer.per_class": "exemplars a class",
    "buffer.batch_size": "examples of a replay draw",
    "training.mode": "training",
    "training.loss_scope": "classes in the loss",
    "training.precision": "precision",
    "training.shards": "shards",
    "recipe": "recipe",
}
"""Keys that decide whether two results may be compared, and what they are for people."""


def protocol_value(value: Any) -> str:
    """A value of the protocol: of a class its name alone."""
    text = shown(value)
    is_class = text.startswith(("perdure.", "torch.")) and " " not in text
    return text.rpartition(".")[2] if is_class else text
