"""Heads (classifiers): linear, cosine (LUCIR), proxies (PODNet), simplex (RPC), nearest class mean.

A head maps features [B, n_features] to scores [B, n_classes]. A growing one (`head.growing=true`)
starts without classes and appends a block of weights for those that a task brings; until then a
class's score is the constant `UNSEEN`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perdure.errors import UserError

UNSEEN = -1e4
"""The score of a class without weights: finite in half precision, too, so that no loss or gradient
is infinite or NaN, and so low that its softmax is 0 beside any other."""


class Head(nn.Module):
    """Scores from blocks of weights: one of all classes, or growing by a block a task.

    A subclass defines `known`.

    Args:
        n_features: length of a feature vector.
        n_classes: columns of the scores, whatever the number of classes with weights.
        growing: whether it starts without classes.
        block: makes the weights of so many classes, drawn from torch's generator.

    Attributes:
        grows: as `growing`.
        classes: labels that have weights, in the order of the blocks' rows.
        blocks: modules with the weights.
    """

    columns: Tensor

    def __init__(
        self, n_features: int, n_classes: int, growing: bool, block: Callable[[int], nn.Module]
    ) -> None:
        super().__init__()
        self.n_features = n_features
        self.n_classes = n_classes
        self.grows = growing
        self.classes: tuple[int, ...] = ()
        self.blocks = nn.ModuleList()
        self._block = block
        # What follows from the calls of `grow`, which a resumed run repeats, is not saved.
        self.register_buffer("columns", torch.empty(0, dtype=torch.int64), persistent=False)
        if not growing:
            self._append(range(n_classes))

    def grow(self, classes: Sequence[int]) -> None:
        """Append a block for those of `classes` that have no weights yet; of a fixed head, none.

        Weights are drawn from torch's generator, on the CPU.

        Raises:
            ValueError: a label is not in 0 … n_classes - 1.
        """
        if not all(0 <= label < self.n_classes for label in classes):
            raise ValueError(f"classes {list(classes)}: the head has {self.n_classes} columns")
        known = set(self.classes)
        new = [label for label in dict.fromkeys(classes) if label not in known]
        if new:
            self._append(new)

    def _append(self, classes: Sequence[int]) -> None:
        self.blocks.append(self._block(len(classes)))
        self.classes += tuple(classes)
        if self.classes != tuple(range(len(self.classes))):
            self.columns = torch.tensor(self.classes, device=self.columns.device)

    def known(self, features: Tensor) -> Tensor:
        """Scores of `classes` in their order. features: [B, n_features] -> [B, len(classes)]."""
        raise NotImplementedError

    def forward(self, features: Tensor) -> Tensor:
        """Scores; `UNSEEN` where a class has no weights. features: [B, n_features] -> [B, C]."""
        return self._in_columns(self.known(features))

    def _in_columns(self, scores: Tensor) -> Tensor:
        missing = self.n_classes - len(self.classes)
        if len(self.columns):  # classes did not come in the order of their labels
            every = scores.new_full((len(scores), self.n_classes), UNSEEN)
            return every.index_copy(1, self.columns, scores)
        return F.pad(scores, (0, missing), value=UNSEEN) if missing else scores

    def _joined(self, name: str, *shape: int) -> Tensor:
        """The blocks' tensors called `name`, one after another; [0, *shape] without any."""
        found: list[Tensor] = [getattr(block, name) for block in self.blocks]
        if not found:
            return self.columns.new_empty((0, *shape), dtype=torch.get_default_dtype())
        return found[0] if len(found) == 1 else torch.cat(found)


class Linear(Head):
    """One linear layer, or one a task. Weights and biases start as `nn.Linear` draws them."""

    def __init__(self, n_features: int, n_classes: int, growing: bool = False) -> None:
        super().__init__(n_features, n_classes, growing, partial(nn.Linear, n_features))

    def known(self, features: Tensor) -> Tensor:
        weight, bias = self._joined("weight", self.n_features), self._joined("bias")
        return F.linear(features, weight.to(features.dtype), bias.to(features.dtype))


class Directions(nn.Module):
    """Weights of `n` classes of which the direction alone counts, U(±1/sqrt(n_features)).

    Attributes:
        weight: float [n, …, n_features].
    """

    def __init__(self, shape: Sequence[int], n: int) -> None:
        super().__init__()
        limit = shape[-1] ** -0.5
        self.weight = nn.Parameter(torch.empty(n, *shape).uniform_(-limit, limit))


class _Scaled(Head):
    """Similarities in [-1, 1] of directions, times a learned scale `eta`, float [1], from 1 on."""

    def __init__(self, shape: Sequence[int], n_classes: int, growing: bool) -> None:
        super().__init__(shape[-1], n_classes, growing, partial(Directions, shape))
        self.shape = tuple(shape)
        self.eta = nn.Parameter(torch.ones(1))

    def similarities(self, features: Tensor) -> Tensor:
        """Of `classes` in their order, before eta. [B, n_features] -> [B, len(classes)]."""
        raise NotImplementedError

    def known(self, features: Tensor) -> Tensor:
        return self.eta * self.similarities(features)

    def cosines(self, features: Tensor) -> Tensor:
        """What `forward` multiplies by eta, as LUCIR's margin needs; `UNSEEN` without weights.

        Under `training.parallel=fsdp` the parameters are whole within `forward` alone; a method
        that calls this declares `needs_full_parameters`.

        features: [B, n_features] -> [B, n_classes].
        """
        return self._in_columns(self.similarities(features))

    def _unit_weights(self) -> Tensor:
        return F.normalize(self._joined("weight", *self.shape), dim=-1)

    @torch.no_grad()
    def imprint(self, classes: Sequence[int], means: Tensor) -> None:
        """Turn the weights of `classes` towards `means`, with the others' average length.

        Imprinted weights (Qi et al. 2018), as LUCIR starts new classes: a mean is that of the
        normalized features of a class. Without other classes the length is 1.

        Args:
            classes: labels.
            means: float [len(classes), …, n_features], one for each weight vector of a class.

        Raises:
            ValueError: a class has no weights, or there are more or fewer means.
        """
        missing = [label for label in classes if label not in self.classes]
        if missing or means.shape != (len(classes), *self.shape):
            raise ValueError(
                f"classes {list(classes)} with means {tuple(means.shape)}: must be classes that "
                f"have weights, and means ({len(classes)}, {', '.join(map(str, self.shape))})"
            )
        rows = [row for block in self.blocks for row in getattr(block, "weight")]  # noqa: B009
        by_label = dict(zip(self.classes, rows, strict=True))
        others = [row.norm(dim=-1).mean() for c, row in by_label.items() if c not in classes]
        length = torch.stack(others).mean() if others else 1.0
        for label, mean in zip(classes, means, strict=True):
            by_label[label].copy_(F.normalize(mean, dim=-1) * length)


class Cosine(_Scaled):
    """eta * <w_c / |w_c|, f / |f|> with a learned eta, without bias: LUCIR, Hou et al. 2019."""

    def __init__(self, n_features: int, n_classes: int, growing: bool = False) -> None:
        super().__init__((n_features,), n_classes, growing)

    def similarities(self, features: Tensor) -> Tensor:
        return F.linear(F.normalize(features, dim=1), self._unit_weights().to(features.dtype))


class Proxy(_Scaled):
    """eta * sum_k s_ck <w_ck, f>, s_c = softmax_k <w_ck, f>: PODNet, Douillard et al. 2020, eq. 8.

    The local similarity classifier: a class has several proxies w_ck, of which the closer ones
    count more. All vectors are normalized.

    Args:
        proxies: of each class.
    """

    def __init__(
        self, n_features: int, n_classes: int, growing: bool = False, proxies: int = 10
    ) -> None:
        if proxies < 1:
            raise UserError(f"head.proxies={proxies}: must be an integer, 1 or more")
        super().__init__((proxies, n_features), n_classes, growing)

    def similarities(self, features: Tensor) -> Tensor:
        weight = self._unit_weights().to(features.dtype)
        each = F.linear(F.normalize(features, dim=1), weight.flatten(0, 1))
        each = each.view(len(features), *weight.shape[:2])
        return (each.softmax(2) * each).sum(2)


class Simplex(nn.Module):
    """<s_c, u> with u = W f + b in n_classes - 1 dimensions and fixed s_c: Pernici et al. 2020.

    The s_c are the vertices of a regular simplex: of length 1, with -1 / (n_classes - 1) as the
    cosine of each two. W and b start as `nn.Linear` draws them.

    Attributes:
        vertices: float [n_classes, n_classes - 1]; in no checkpoint, since they follow from it.
    """

    vertices: Tensor

    def __init__(self, n_features: int, n_classes: int) -> None:
        super().__init__()
        if n_classes < 2:
            raise UserError("head=simplex: takes two classes or more")
        self.project = nn.Linear(n_features, n_classes - 1)
        # Column k of Helmert's matrix: k equal numbers, then one that makes their sum 0. Its rows
        # are the unit vectors of n_classes dimensions less their mean, in a basis of their plane.
        k = torch.arange(1, n_classes, dtype=torch.float64)
        row = torch.arange(n_classes, dtype=torch.float64)[:, None]
        helmert = ((row < k).double() - k * (row == k)) / (k * (k + 1)).sqrt()
        unit = helmert * (n_classes / (n_classes - 1)) ** 0.5
        self.register_buffer("vertices", unit.to(torch.get_default_dtype()), persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        """[B, n_features] -> [B, n_classes]."""
        u: Tensor = self.project(features)
        return F.linear(u, self.vertices.to(u.dtype))


class NCM(nn.Module):
    """Nearest class mean: scores by the distance to streaming means of features.

    Nothing of it is trained by a gradient. A method calls `update` in a hook; not in `loss`, whose
    changes of buffers are those of the first shard alone. The order of the examples changes the
    means by rounding only.

    Args:
        metric: "cosine", the cosine of features and mean (as in SimpleCIL), or "euclidean", the
            negative squared distance (Mensink et al. 2013; iCaRL on normalized features).

    Attributes:
        sums: float [n_classes, n_features], of the features of each class.
        counts: int64 [n_classes].
    """

    sums: Tensor
    counts: Tensor

    def __init__(
        self,
        n_features: int,
        n_classes: int,
        metric: Literal["cosine", "euclidean"] = "cosine",
    ) -> None:
        if metric not in ("cosine", "euclidean"):
            raise UserError(f"head.metric={metric}: must be cosine or euclidean")
        super().__init__()
        self.metric = metric
        self.register_buffer("sums", torch.zeros(n_classes, n_features))
        self.register_buffer("counts", torch.zeros(n_classes, dtype=torch.int64))

    @torch.no_grad()
    def update(self, features: Tensor, y: Tensor) -> None:
        """Add examples to the means. features: float [B, n_features]; y: int64 [B]."""
        self.sums.index_add_(0, y, features.to(self.sums.dtype))
        self.counts.index_add_(0, y, torch.ones_like(y))

    @torch.no_grad()
    def reset(self) -> None:
        """Forget all examples."""
        self.sums.zero_()
        self.counts.zero_()

    @property
    def means(self) -> Tensor:
        """float [n_classes, n_features]; zero where there are no examples."""
        return self.sums / self.counts.clamp(min=1)[:, None]

    def forward(self, features: Tensor) -> Tensor:
        """Scores; `UNSEEN` of a class without examples. [B, n_features] -> [B, n_classes]."""
        means = self.means.to(features.dtype)
        if self.metric == "cosine":
            scores = F.linear(F.normalize(features, dim=1), F.normalize(means, dim=1))
        else:
            # |f|² - 2 <f, m> + |m|², which needs no [B, n_classes, n_features].
            squares = features.square().sum(1, keepdim=True) + means.square().sum(1)
            scores = 2 * F.linear(features, means) - squares
        return scores.masked_fill(self.counts == 0, UNSEEN)


class Identity(nn.Module):
    """No head: the features are the output, for a method that makes scores of them itself."""

    def __init__(self) -> None:
        super().__init__()

    def forward(self, features: Tensor) -> Tensor:
        return features
