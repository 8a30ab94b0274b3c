"""The state of a backbone without its head (feature extractor), for methods that freeze it."""

from __future__ import annotations

from torch import Tensor

from perdure.backbones.base import Backbone


def features_state(backbone: Backbone) -> dict[str, Tensor]:
    """Parameters and statistics of all but the head, by name."""
    head = {f"head.{name}" for name in backbone.head.state_dict()}
    return {name: value for name, value in backbone.state_dict().items() if name not in head}
