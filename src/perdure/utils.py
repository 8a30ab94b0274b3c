"""Catalyst-style helpers for a user's own models: `from perdure import utils`.

checkpoint = utils.pack_checkpoint(model=model, optimizer=optimizer, epoch=3)
utils.save_checkpoint(checkpoint, logdir="logs", suffix="my_checkpoint")
checkpoint = utils.load_checkpoint(path="logs/my_checkpoint.pth")
utils.unpack_checkpoint(checkpoint=checkpoint, model=model)
"""

from __future__ import annotations

from perdure.checkpoint.interop.pack import (
    load_checkpoint,
    pack_checkpoint,
    save_checkpoint,
    unpack_checkpoint,
)

__all__ = ["load_checkpoint", "pack_checkpoint", "save_checkpoint", "unpack_checkpoint"]
