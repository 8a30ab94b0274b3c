"""ER-AML: experience replay with an asymmetric metric loss on the features of new examples."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from perdure.backbones.base import Backbone
from perdure.datasets.batch import Batch
from perdure.errors import UserError
from perdure.models.base import Loss, Method
from perdure.models.replay import Replay


class ERAML(Method):
    """New examples learn from pairs, replayed ones from all classes.

    Caccia et al. 2022, "New insights on reducing abrupt representation change in online continual
    learning" (ER-AML): L = L_in + CE(X_bf). In L_in each new example i has a positive (another one
    of its class) and a negative, both drawn from the batch and the memory; with unit features h and
    P(i) all drawn ones of i's class, A all drawn ones,
    L_in = −(τ/τ₀) mean_i mean_{p∈P(i)} log( exp(h_i·h_p / τ) / Σ_{a∈A} exp(h_i·h_a / τ) ).
    As in the authors' code a negative is of a class of the current task, an example without a
    positive or a negative is left out, and in the first task L_in is the cross-entropy.

    Args:
        temperature: τ.
        base_temperature: τ₀.
    """

    replays = (Replay(), Replay("all"))
    joint = False
    scenarios = ("class-incremental",)
    additive = False
    needs_boundaries = True

    def __init__(self, backbone: Backbone, temperature: float, base_temperature: float) -> None:
        super().__init__(backbone)
        for key, t in (("temperature", temperature), ("base_temperature", base_temperature)):
            if not 0 < t < float("inf"):
                raise UserError(f"model.{key}={t}: divides similarities; must be above 0")
        self.temperature, self.base_temperature = temperature, base_temperature

    def loss(self, batch: Batch, *replay: Batch) -> Loss:
        past, memory = replay
        if not self.task.index or not past:
            logits, past_logits = self.logits(batch, past)
            loss = batch.cross_entropy(logits)
        else:
            past_logits = self(past.x)
            loss = self.metric_loss(batch, batch + memory)
        return loss + past.cross_entropy(past_logits) if past else loss

    def metric_loss(self, batch: Batch, pool: Batch) -> Tensor:
        """L_in, []; `pool` begins with the examples of `batch`."""
        same = batch.y[:, None] == pool.y
        itself = torch.zeros_like(same)
        itself.diagonal().fill_(True)
        positive, has_positive = _choice(same & ~itself)
        negative, has_negative = _choice(~same & self.task.classes.mask(pool.y))
        rows, complete = torch.cat((positive, negative)), has_positive & has_negative
        choices = None if pool.augmentation is None else pool.augmentation[rows]
        drawn = pool.transform(pool.raw[rows], choices)
        h = F.normalize(self.backbone.features(torch.cat((batch.x, drawn))), dim=1)
        tau, n = self.temperature, len(batch)
        return (
            tau
            / self.base_temperature
            * contrast(h[:n], batch.y, h[n:], pool.y[rows], complete, tau)
        )


def contrast(
    h: Tensor, y: Tensor, drawn: Tensor, y_drawn: Tensor, complete: Tensor, temperature: float
) -> Tensor:
    """L_in of unit features without the factor τ/τ₀, [].

    Args:
        h: float [n, d], of the new examples.
        y: int64 [n].
        drawn: float [2n, d], their positives, then their negatives.
        y_drawn: int64 [2n].
        complete: bool [n], which examples have both; 0 where none has.
        temperature: τ.
    """
    with torch.autocast(h.device.type, enabled=False):  # differences of 1/τ size count
        similarity = h.float() @ drawn.float().T / temperature
    there = complete.repeat(2)
    similarity = similarity.masked_fill(~there, torch.finfo(similarity.dtype).min)
    log_probability = similarity - torch.logsumexp(similarity, 1, keepdim=True)
    positive = (y[:, None] == y_drawn) & there
    of_anchor = log_probability.masked_fill(~positive, 0).sum(1) / positive.sum(1).clamp(min=1)
    return -(of_anchor * complete).sum() / complete.sum().clamp(min=1)


def _choice(allowed: Tensor) -> tuple[Tensor, Tensor]:
    """A random column of those allowed in each row, int64 [n], and whether there is one."""
    u = torch.rand(allowed.shape).to(allowed.device, non_blocking=True)
    return u.masked_fill(~allowed, -1).argmax(1), allowed.any(1)
