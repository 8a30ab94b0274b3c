"""Add-ons: a term on replayed examples, added to the loss of any method that replays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from torch import Tensor

from perdure.backbones.base import Backbone
from perdure.datasets.batch import Batch
from perdure.models.base import Loss, Method, StepOutput
from perdure.models.replay import Replay


class AddOn(Method):
    """What is added to a base method: `wrapped(AddOn, Base)` is a subclass of both.

    So hooks, facts, buffers and the names of the state are the base method's. A draw of its own
    comes after the base method's draws, whose numbers stay. A subclass defines `extra`, and an
    `__init__` that takes `backbone` and `base` besides hyperparameters of its own.

    Args:
        backbone: the network.
        base: the base method's hyperparameters.
        adds: whether there is anything to add; if not, nothing is drawn either, and the method is
            the base method to the bit.
    """

    additive: ClassVar[bool] = False
    needs_full_parameters: ClassVar[bool] = True
    base: ClassVar[str | None] = None  # the method that is wrapped, which no class knows by name
    zero_strength: ClassVar[tuple[str, ...]] = ()

    def __init__(self, backbone: Backbone, base: Mapping[str, Any], adds: bool) -> None:
        super().__init__(backbone, **base)
        self.adds = adds
        if adds:
            own = self.replays
            self.replays = own + 1 if isinstance(own, int) else (*own, Replay())

    def extra(self, past: Batch) -> Tensor:
        """The term that is added to the loss, []; `past` is a draw of its own, never empty."""
        raise NotImplementedError

    def loss(self, batch: Batch, *replay: Batch) -> Loss:
        found = super().loss(batch, *self.of_base(replay))
        loss = found.loss if isinstance(found, StepOutput) else found
        if loss is None or not (self.adds and replay[-1]):
            return found
        loss = loss + self.extra(replay[-1])
        return replace(found, loss=loss) if isinstance(found, StepOutput) else loss

    def of_base(self, replay: Sequence[Batch]) -> Sequence[Batch]:
        """The draws without the add-on's own."""
        return replay[:-1] if self.adds else replay


def wrapped(addon: type[AddOn], base: type[Method]) -> type[AddOn]:
    """The class of `base` with `addon`."""
    own: dict[str, Any] = {"__module__": addon.__module__}
    if base.defines("references"):
        # Only there, so that `defines` goes on saying what the base method has.
        def references(self: AddOn, *replay: Batch) -> Any:
            return base.references(self, *self.of_base(replay))

        own["references"] = references
    return type(f"{base.__name__}{addon.__name__}", (addon, base), own)
