"""Checkpoints of earlier formats, read as those of today: one table of what was renamed or implied.

Format 1 (0.1): `perdure.optim` is `perdure.training.optim` today, and checkpoints from before runs
had shards lack the keys of `training` that came with them. Its sidecars call the siblings of a file
`twins`, and a weights-only checkpoint `light`. Until there were tables of published settings,
`recipe` held the source of the hyperparameters, which are stored as they were; and `model` repeated
two facts of its class. Early files of format 2 too hold the counts behind the accuracies eight
times over, once for each metric, in tables [evaluations, tasks].
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_CLASSES = {"perdure.optim.": "perdure.training.optim."}
"""How import paths in a stored configuration began → how they begin today."""

_IMPLIED: Mapping[str, Any] = {
    "shards": 1,
    "exact": True,
    "replay_sync": "replicated",
    "sync_batchnorm": False,
    "parallel": "replicate",
}
"""What a configuration means that was stored before these keys of `training` existed."""

_LATER: Mapping[str, Any] = {"one_forward": False, "updates": 1, "loss_scope": None}
"""The same for keys of `training` that came later, without a new format."""

_HEAD: Mapping[str, Any] = {"_target_": "perdure.backbones.heads.Linear", "growing": False}
"""The group `head` before there was one, beside a backbone: the backbone's own."""
_LATER_DATASET: Mapping[str, Any] = {
    "class_sizes": None,
    "initial_classes": None,
    "increment": None,
    "noise": {"kind": None, "rate": 0.0},
    "imbalance": None,
}
"""The same for keys of `dataset`."""

_OF_THE_CLASS = ("needs_buffer", "joint")
"""Keys of `model` that repeated what its class says."""

_FIELDS = {"twins": "siblings"}
"""Fields of a sidecar, before → today."""

_KINDS = {"light": "weights-only"}
"""Kinds of a checkpoint in a sidecar, before → today."""


def migrated_metadata(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """A sidecar's fields as today's code would have written them; foreign data, as below."""
    renamed = {_FIELDS.get(name, name): value for name, value in metadata.items()}
    kind = renamed.get("kind")
    if isinstance(kind, str):
        renamed["kind"] = _KINDS.get(kind, kind)
    return renamed


def migrated(state: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a full checkpoint as today's code would have written it.

    What it holds is foreign data: whatever is not of the expected form stays as it is.
    """
    state = dict(state)
    if "results" in state:
        state["results"] = _with_counts_once(state["results"])
    args = state.get("args")
    if not isinstance(args, Mapping):
        return state
    return {**state, "args": migrated_configuration(args, state.get("format") == 1)}


def migrated_configuration(args: Mapping[str, Any], first_format: bool = False) -> dict[str, Any]:
    """A stored configuration as today's code would have stored it; foreign data, as above."""
    found: dict[str, Any] = dict(_renamed(args) if first_format else args)
    if isinstance(found.get("recipe"), Mapping):
        found["recipe"] = "none"
    model = found.get("model")
    if isinstance(model, Mapping):
        found["model"] = {k: v for k, v in model.items() if k not in _OF_THE_CLASS}
    if isinstance(found.get("training"), Mapping):
        implied = {**_IMPLIED, **_LATER} if first_format else _LATER
        found["training"] = {**implied, **found["training"]}
    if isinstance(found.get("dataset"), Mapping):
        found["dataset"] = {**_LATER_DATASET, **found["dataset"]}
    if "backbone" in found:
        found.setdefault("head", dict(_HEAD))
        found.setdefault("budget", {"bytes": None})
        found.setdefault("addon", {"_target_": None, "name": None})
    return found


def _with_counts_once(results: Any) -> Any:
    """The part `results` with its counts as `AccuracyCounts.state_dict` gives them."""
    try:
        metrics = results["measured"]["metrics"]
        tables = {
            name: {key.rpartition(".")[2]: value for key, value in states.items()}
            for name, states in metrics.items()
        }
        counts = _flat(tables)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError):
        return results
    return {**results, "measured": {"counts": counts, "confusion": None}}


def _flat(tables: Mapping[str, Mapping[str, torch.Tensor]]) -> dict[str, Any]:
    """The counts of each evaluation one after another; what evaluated nothing is left out."""
    import torch  # here, since sidecars of earlier formats are read without it

    first = next(iter(tables.values()))
    total = first["total"]
    made = total.any(1)
    # Every evaluation was of tasks 0, 1, … up to some task.
    is_in = (total[made] > 0).flip(1).cummax(1).values.flip(1)
    columns = (first["trained"][made], first["boundary"][made], is_in.sum(1))
    return {
        "evaluations": torch.stack(columns, 1).to(torch.int32),
        "total": total[made][is_in].to(torch.int32),
        "correct": {
            name: table["correct"][made][is_in].to(torch.int32) for name, table in tables.items()
        },
    }


def _renamed(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {
            key: _today(inner) if key == "_target_" else _renamed(inner)
            for key, inner in value.items()
        }
    return [_renamed(inner) for inner in value] if isinstance(value, list) else value


def _today(path: Any) -> Any:
    for before, now in _CLASSES.items():
        if isinstance(path, str) and path.startswith(before):
            return now + path.removeprefix(before)
    return path
