"""What short seeded runs end with, to the bit: `python tests/bits.py` records it.

A change that should alter no result must leave tests/fixtures/same_bits.json as it is; one that
should is recorded anew, and says why. Bits hold for one torch version, processor and thread; the
rounded results hold everywhere. Nothing here knows a module or a key of a checkpoint but `results`.
"""

from __future__ import annotations

import hashlib
import json
import platform
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

import perdure

FIXTURES = Path(__file__).parent / "fixtures"
RECORD = FIXTURES / "same_bits.json"

SAVING = ("checkpoint.save=true", "checkpoint.top_k=1")
COMMON = (
    "device=cpu", "threads=1", "seed=3", "dataset.stop_after=2", "dataset.iterations=30",
    "training.log_every=10", "tracking.console=off", *SAVING,
)  # fmt: skip
MLP = ("backbone.hidden=[16]",)
CONV = ("backbone=reduced-resnet18", "+backbone.width=4", "optimizer.lr=0.003")
SETTINGS: dict[str, tuple[str, ...]] = {
    "sgd adam validation": (
        "model=sgd", "optimizer=adam", "optimizer.lr=0.03", "dataset.validation=0.1", *MLP,
    ),
    "er momentum": (
        "model=er", "buffer.size=30", "optimizer.momentum=0.9", "optimizer.lr=0.01", *MLP,
    ),
    "er 4 shards": (
        "model=er", "buffer.size=30", "training.shards=4", "dataset.batch_size=12",
        "optimizer.lr=0.01", *MLP,
    ),
    "der": ("model=der", "buffer.size=30", "model.alpha=0.2", *MLP),
    "derpp class-balanced cosine": (
        "model=derpp", "buffer=class-balanced", "buffer.size=30", "scheduler=cosine", *MLP,
        "dataset.epochs=2", "model.alpha=0.2", "model.beta=1.0", "buffer.batch_size=128",
    ),
    "er-ace": ("model=er-ace", "buffer.size=30", *MLP),
    "agem 2 shards": (
        "model=agem", "buffer=reservoir", "buffer.size=30", "training.shards=2",
        "optimizer.lr=0.1", "buffer.batch_size=128", *MLP,
    ),
    "ewc-online multistep": (
        "model=ewc-online", "scheduler=multistep", "scheduler.milestones=[1]", "dataset.epochs=2",
        "model.strength=180.0", *MLP,
    ),
    "si perm-mnist": ("model=si", "dataset=perm-mnist", "model.c=0.5", "optimizer.lr=0.1", *MLP),
    "lwf": ("model=lwf", "optimizer.weight_decay=0.0005", *MLP),
    "joint": ("model=sgd", "training=joint", "dataset.stop_after=null", *MLP),
    "er reduced-resnet18": ("model=er", "buffer.size=30", *CONV),
}  # fmt: skip
"""Overrides of each setting, beyond COMMON; no table of published settings changes these runs."""


def key() -> str:
    """What must be the same for the same bits; linear algebra differs by the processor's maker."""
    capability, about = torch.backends.cpu.get_cpu_capability(), Path("/proc/cpuinfo")
    lines = about.read_text().splitlines() if about.exists() else []
    maker = next((line.partition(": ")[2] for line in lines if line.startswith("vendor")), "")
    return f"torch {torch.__version__}, {capability}, {platform.machine()} {maker}".rstrip()


def measure(setting: str, folder: Path) -> dict[str, Any]:
    """Run a setting in `folder`; its bits and its rounded results."""
    results = perdure.train(*COMMON, *SETTINGS[setting], folder=folder)
    rows = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    losses = [(row["global_step"], row["loss"]) for row in rows if "loss" in row]
    files = sorted((folder / "checkpoints").glob("*.pt"), key=lambda path: path.stat().st_mtime)
    rounded = {
        "accuracy": {kind: _rounded(m) for kind, m in results["accuracy_matrix"].items()},
        "loss": float(f"{sum(loss for _, loss in losses):.4g}"),
    }
    return {
        "bits": {
            "weights": sorted(_digests(_loaded(folder / "checkpoints" / "last.pth"))),
            "state": sorted(set(_digests(_loaded(files[-1])))),
            "results": _facts(results),
            "losses": _hashed(losses),
        },
        "rounded": rounded,
    }


def _rounded(matrix: list[list[float]]) -> list[list[float]]:
    return [[round(value, 4) for value in row] for row in matrix]


def _loaded(path: Path) -> Any:
    state = torch.load(path, map_location="cpu", weights_only=True)
    # The counts behind the accuracies, which `results` covers, may come to be kept otherwise.
    return {name: value for name, value in state.items() if name != "results"}


def _digests(value: Any) -> Iterator[str]:
    """Of each tensor: its type, shape and bytes, whatever it is called."""
    if isinstance(value, torch.Tensor):
        data = value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        yield _short(f"{value.dtype} {tuple(value.shape)} ".encode() + data)
    elif isinstance(value, dict | list | tuple):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _digests(part)


_VARYING = {"timestamp", "environment", "seconds", "cpu_seconds", "resumes", "versions"}


def _facts(results: dict[str, Any]) -> dict[str, str]:
    return {name: _hashed(value) for name, value in results.items() if name not in _VARYING}


def _hashed(value: Any) -> str:
    return _short(json.dumps(value, sort_keys=True).encode())


def _short(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def record() -> None:
    """Write what the settings end with here; what other machines recorded stays."""
    known = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    found = {}
    for setting in SETTINGS:
        with tempfile.TemporaryDirectory() as folder:
            measured = measure(setting, Path(folder, "run"))
        others = known.get(setting, {}).get("bits", {})
        found[setting] = {
            "bits": {**others, key(): measured["bits"]},
            "rounded": measured["rounded"],
        }
        print(setting, measured["rounded"]["accuracy"])
    RECORD.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(record())
