"""X-DER: extended dark experience replay (class-incremental continual learning into the future)."""

from __future__ import annotations

import torch
from torch import Tensor

from perdure.backbones.base import Backbone
from perdure.datasets.batch import Batch
from perdure.datasets.views import strong_view
from perdure.errors import UserError
from perdure.models.base import Loss, StepOutput
from perdure.models.options import above, at_least
from perdure.models.replay import Replay
from perdure.models.transplant import Transplanting


class XDER(Transplanting):
    """DER++ whose stored logits learn of later classes, and whose unused heads get ready for them.

    Boschini et al. 2022, "Class-incremental continual learning into the eXtended DER-verse", with a
    slice of the scores (a head) for each past, present and future task:
    L = CE(z, y; present) + α E ‖z' − h(x')‖² + β CE(h(x''), y''; past) + λ L_future + η L_margin.
    L_future is the supervised contrastive loss over strong views of new and replayed examples,
    averaged over the future heads; 0 for λ leaves it out (X-DER w/ CE). L_margin is the mean of
    max_future + m − max_own, of an example's own head, over the examples where it is above 0, and
    on new ones alike of past heads, in probabilities. The logits stored for later classes follow
    the network (`Transplanting`).

    As in the authors' code: the memory is class-balanced and filled at a task's end
    (`buffer=random`, the default here), and the similarities of replayed examples in each future
    head may be kept, too. Deviations: an example in both draws counts twice in L_margin; future
    classes are dealt to the future heads in the order of their labels; no separate batch
    statistics of each task (align_bn).

    Args:
        alpha: α.
        beta: β.
        gamma: γ, of its label's logit, which a transplanted one may reach.
        contrastive: λ.
        temperature: of the contrastive loss.
        simclr_num_aug: views of each example in it.
        contrasted: replayed examples in it.
        crop: smallest part of an image's area that a view shows.
        flip: whether a view may be mirrored.
        eta: η.
        margin: m.
        past_constraint: whether L_margin is of past heads, too.
        past_future_strength: weight of the similarities.
    """

    replays: int | tuple[Replay, ...] = 2
    additive = False

    def __init__(
        self,
        backbone: Backbone,
        alpha: float,
        beta: float,
        gamma: float,
        contrastive: float,
        temperature: float,
        simclr_num_aug: int,
        contrasted: int,
        crop: float,
        flip: bool,
        eta: float,
        margin: float,
        past_constraint: bool,
        past_future_strength: float,
    ) -> None:
        super().__init__(backbone, gamma)
        at_least(0, alpha=alpha, beta=beta, contrastive=contrastive, eta=eta)
        at_least(0, margin=margin, past_future_strength=past_future_strength)
        at_least(1, simclr_num_aug=simclr_num_aug, contrasted=contrasted)
        above(0, temperature=temperature)
        if not 0 < crop <= 1:
            raise UserError(f"model.crop={crop}: is a part of an area; must be above 0, at most 1")
        self.alpha = alpha
        self.beta = beta
        self.contrastive = contrastive
        self.temperature = temperature
        self.n_views = simclr_num_aug
        self.crop = crop
        self.flip = flip
        self.eta = eta
        self.margin = margin
        self.past_constraint = past_constraint
        self.past_future_strength = past_future_strength
        self._views = bool(contrastive or past_future_strength)
        self.replays = (Replay(), Replay(), Replay(contrasted))[: 3 if self._views else 2]

    def loss(self, batch: Batch, *replay: Batch) -> Loss:
        first, second, *third = replay
        z, z_first, z_second = self.logits(batch, first, second)
        loss = batch.cross_entropy(z, self.task.classes)
        if first:
            loss = loss + self.alpha * first.mse(z_first, first["logits"])
            loss = loss + self.beta * second.cross_entropy(z_second, self.task.past)
        if self._views and self.slices.heads:
            loss = loss + self._future(batch, third[0])
        if self.eta and self.slices.future:
            y = torch.cat([batch.y, first.y, second.y])
            every = torch.cat([z, z_first, z_second])
            loss = loss + self.eta * self.slices.exceeding(every, y, self.margin)
        if self.eta and self.past_constraint and self.task.past:
            loss = loss + self.eta * self.slices.outdone(z, self.margin)
        if not first:
            return StepOutput(loss)
        return StepOutput(loss, rewrite=self.rewritten((first, z_first), (second, z_second)))

    def _future(self, batch: Batch, past: Batch) -> Tensor:
        both = batch + past
        views = [strong_view(both.raw, self.crop, self.flip) for _ in range(self.n_views)]
        z = self(both.transform(torch.cat(views), None))
        loss = self.slices.contrast(z, both.y.repeat(self.n_views), self.temperature)
        if not (past and self.past_future_strength):
            return self.contrastive * loss
        replayed = z.unflatten(0, (self.n_views, len(both)))[:, len(batch) :]
        kept = self.slices.similarity(replayed, past["logits"])
        return self.contrastive * loss + self.past_future_strength * kept
