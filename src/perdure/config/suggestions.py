"""Did you mean: the key, the override or the spelling that a mistyped command line was to have.

Nothing here is applied; messages show it.
"""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra import compose
from hydra._internal.utils import get_args_parser
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from perdure.config.compose import configuration
from perdure.config.folder import CONF
from perdure.config.overrides import Arguments, parse, quoted
from perdure.errors import UserError

_ELSEWHERE = {
    "n_epochs": "dataset.epochs",
    "num_epochs": "dataset.epochs",
    "train_epochs": "dataset.epochs",
    "n_iters": "dataset.iterations",
    "batch_size": "dataset.batch_size",
    "train_mb_size": "dataset.batch_size",
    "buffer_size": "buffer.size",
    "mem_size": "buffer.size",
    "memory_size": "buffer.size",
    "minibatch_size": "buffer.batch_size",
    "batch_size_mem": "buffer.batch_size",
    "learning_rate": "optimizer.lr",
    "init_lr": "optimizer.lr",
    "optim_wd": "optimizer.weight_decay",
    "optim_mom": "optimizer.momentum",
    "wd": "optimizer.weight_decay",
    "optim": "optimizer",
    "lr_scheduler": "scheduler",
    "n_experiences": "dataset.n_tasks",
    "num_tasks": "dataset.n_tasks",
    "convnet_type": "backbone",
    "net": "backbone",
    "model_name": "model",
    "strategy": "model",
    "method": "model",
    "benchmark": "dataset",
    "permute_classes": "dataset.class_order",
    "joint": "training",
    "fixed_class_order": "dataset.class_order",
    "base_path": "data.root",
    "results_path": "output_root",
    "output_dir": "output_root",
    "savecheck": "checkpoint.save",
    "loadcheck": "checkpoint.load",
    "resume": "checkpoint.resume",
    "ckpt_name": "checkpoint.name",
    "stop_after": "dataset.stop_after",
    "validation": "dataset.validation",
    "fp16": "training.precision",
    "gpu": "device",
    "gpus": "device",
    "wandb_project": "tracking.wandb.project",
    "wandb_entity": "tracking.wandb.entity",
    "wandb_name": "tracking.wandb.name",
    "debug_mode": "debug",
}
"""Names of arguments in other programs of the field → ours."""


def nearest(name: str, names: Iterable[str]) -> str:
    """` (did you mean …?)` with the one of `names` that looks most like `name`, or nothing."""
    close = difflib.get_close_matches(name, list(names), n=1, cutoff=0.6)
    return f" (did you mean {close[0]}?)" if close else ""


def keys_like(key: str, words: Sequence[str]) -> list[str]:
    """Keys and groups that `key` may stand for in the command `words`; most likely first."""
    known = list(dict.fromkeys(known_keys(words)))
    if _ELSEWHERE.get(key) in known:
        return [_ELSEWHERE[key]]
    last = [k for k in known if k.rpartition(".")[2] == key and k != key]
    if last and "." not in key:
        return last[:3]
    group, _, name = key.rpartition(".")
    beside = {k.rpartition(".")[2]: k for k in known if group and k.rpartition(".")[0] == group}
    anywhere = {k.rpartition(".")[2]: k for k in reversed(known)}
    return (
        [beside[n] for n in difflib.get_close_matches(name, list(beside), n=1, cutoff=0.6)]
        or difflib.get_close_matches(key, known, n=1, cutoff=0.8)
        or [anywhere[n] for n in difflib.get_close_matches(name, list(anywhere), n=1, cutoff=0.75)]
    )


def did_you_mean(key: str, words: Sequence[str]) -> str:
    """` (did you mean …?)` for an unknown `key`, or nothing."""
    found = keys_like(key, words)
    return f" (did you mean {' or '.join(found)}?)" if found else ""


def require_no_flags(words: Sequence[str]) -> None:
    """Refuse `--lr 0.1`, which is `optimizer.lr=0.1` here.

    Raises:
        UserError: names the flag and what to write instead.
    """
    try:
        _, rest = get_args_parser().parse_known_args(list(words))
    except SystemExit:  # a flag of Hydra's without its value; Hydra says so itself
        return
    for flag in (word for word in rest if word.startswith("-")):
        name, has_value, value = flag.lstrip("-").partition("=")
        after = words[list(words).index(flag) + 1 :]
        shown = flag
        if not has_value and after and not after[0].startswith("-") and "=" not in after[0]:
            value, shown = after[0], f"{flag} {after[0]}"
        found = keys_like(name, words) if name not in set(known_keys(words)) else [name]
        advice = f"write {found[0]}={value or '…'}" if found else "perdure train --help lists them"
        raise UserError(f"{shown}: there is no such flag; settings are key=value: {advice}")


def spelled(text: str) -> str:
    """How to write the override `text`, which Hydra's grammar does not take, for a shell.

    Empty where it is no `key=value`, or quoting does not help.
    """
    key, is_pair, value = text.partition("=")
    if not is_pair or not re.fullmatch(r"[+~]{0,2}[\w./@:-]+", key):
        return ""
    typed = f'{key}="{value}"' if not set(value) & set('"\\$') else f"{key}={quoted(value)}"
    return shlex.quote(typed) if parse(typed).override is not None else ""


def known_keys(words: Sequence[str]) -> Iterator[str]:
    """Groups and keys of the configuration that the groups chosen in `words` make."""
    command = Arguments(tuple(words))
    folders = (*map(Path, command.config_folders), CONF)
    groups = [t for t in command.overrides if any((f / t.key).is_dir() for f in folders)]
    chosen = [t.text for t in groups if t.override is not None and not t.is_sweep]
    with configuration(command.config_folders):
        try:
            config = compose("train", overrides=[*command.search_path, *chosen])
        except (HydraException, OmegaConfBaseException, AssertionError):
            config = compose("train")
    yield from ("scheduler", "experiment", "search", "debug")  # groups that may be chosen as null
    yield from _paths(config)


def _paths(node: Any, prefix: str = "") -> Iterator[str]:
    for key in node:
        yield f"{prefix}{key}"
        raw = node._get_node(key)
        if OmegaConf.is_dict(raw) and not raw._is_none() and not raw._is_missing():
            yield from _paths(raw, f"{prefix}{key}.")
