"""ER, DER, DER++ and ER-ACE against their formulas, written out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perdure.backbones.mlp import MLP
from perdure.buffers.base import Buffer
from perdure.buffers.reservoir import Reservoir
from perdure.datasets.batch import Batch
from perdure.datasets.transforms import Scale
from perdure.models.base import Loss, StepOutput, Task
from perdure.models.der import DER
from perdure.models.derpp import DERpp
from perdure.models.er import ER
from perdure.models.er_ace import ERACE
from perdure.randomness import Streams
from perdure.training.settings import Settings
from perdure.training.step import Step

Digits = Callable[..., Batch]
Make = Callable[..., Any]

REPLAY_METHODS = [(ER, {}), (DER, {"alpha": 0.7}), (DERpp, {"alpha": 0.7, "beta": 0.3})]
ids = ["er", "der", "derpp"]


def stored_logits(n: int) -> Tensor:
    return torch.randn(n, 10, generator=torch.Generator().manual_seed(n))


def value(outcome: Loss) -> Tensor:
    loss = outcome.loss if isinstance(outcome, StepOutput) else outcome
    assert loss is not None
    return loss


def assert_same_with_gradient(method: Any, ours: Tensor, reference: Tensor) -> None:
    torch.testing.assert_close(ours, reference, rtol=1e-6, atol=1e-7)
    weights = method.trainable()
    for a, b in zip(
        torch.autograd.grad(ours, weights), torch.autograd.grad(reference, weights), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("n_past", [1, 10, 33], ids=str)
def test_er_is_one_mean_over_both_batches(make: Make, digits: Digits, n_past: int) -> None:
    method, batch, past = make(ER), digits(0, 10), digits(50, 50 + n_past)
    x, y = torch.cat((batch.x, past.x)), torch.cat((batch.y, past.y))
    assert_same_with_gradient(method, method.loss(batch, past), F.cross_entropy(method(x), y))


@pytest.mark.parametrize(("kind", "options"), REPLAY_METHODS, ids=ids)
def test_an_empty_buffer_leaves_the_cross_entropy(
    make: Make, digits: Digits, kind: type, options: dict[str, float]
) -> None:
    method, batch = make(kind, **options), digits(0, 10)
    nothing = [digits(0, 0)] * method.replays
    expected = F.cross_entropy(method(batch.x), batch.y)
    assert_same_with_gradient(method, value(method.loss(batch, *nothing)), expected)


def test_der_is_equation_5(make: Make, digits: Digits) -> None:
    method, batch, z = make(DER, alpha=0.7), digits(0, 10), stored_logits(8)
    past = digits(60, 68, logits=z)
    expected = F.cross_entropy(method(batch.x), batch.y) + 0.7 * F.mse_loss(method(past.x), z)
    assert_same_with_gradient(method, method.loss(batch, past).loss, expected)


def test_derpp_is_equation_6_with_two_draws(make: Make, digits: Digits) -> None:
    """The first draw's labels and the second one's logits do not matter."""
    method, batch = make(DERpp, alpha=0.7, beta=0.3), digits(0, 10)
    z = stored_logits(8)
    first, second = digits(60, 68, logits=z), digits(80, 88, logits=torch.full((8, 10), torch.nan))
    first.y = torch.zeros_like(first.y)
    expected = (
        F.cross_entropy(method(batch.x), batch.y)
        + 0.7 * F.mse_loss(method(first.x), z)
        + 0.3 * F.cross_entropy(method(second.x), second.y)
    )
    assert_same_with_gradient(method, method.loss(batch, first, second).loss, expected)


@pytest.mark.parametrize(("kind", "options"), REPLAY_METHODS[1:], ids=ids[1:])
def test_the_logits_kept_are_those_of_the_current_batch(
    make: Make, digits: Digits, kind: type, options: dict[str, float]
) -> None:
    method, batch = make(kind, **options), digits(0, 10)
    past = [digits(60, 68, logits=stored_logits(8))] * method.replays
    stored = method.loss(batch, *past).remember
    assert stored.keys() == {"logits"}
    torch.testing.assert_close(stored["logits"], method(batch.x))


# --- one forward pass or several ---------------------------------------------------------------


class Watched(MLP):
    """Counts the examples of each forward pass."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.passes: list[int] = []

    def features(self, x: Tensor) -> Tensor:
        self.passes.append(len(x))
        return super().features(x)


class Normalized(Watched):
    """Batch norm: what an example is joined with changes its logits."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.norm = nn.BatchNorm1d(self.n_features)

    def features(self, x: Tensor) -> Tensor:
        normalized: Tensor = self.norm(super().features(x))
        return normalized


class Dropping(Watched):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.drop = nn.Dropout(0.5)


def test_a_network_of_the_method_s_own_can_mix_examples_too() -> None:
    method = DERpp(MLP((1, 28, 28), 10, (12,)), 0.7, 0.3)
    assert method.rows_are_independent
    method.projection = nn.Sequential(nn.Linear(12, 8), nn.BatchNorm1d(8))
    assert method.backbone.rows_are_independent
    assert not method.rows_are_independent
    step = Step(
        method,
        Scale(),
        Buffer(Reservoir(5, 8)),
        Streams(0),
        Settings(batch_size=10),
        torch.device("cpu"),
    )
    assert not method.one_forward
    del method.projection
    step.renew_parameters()
    assert method.one_forward


@pytest.mark.parametrize(
    ("kind", "wanted", "passes"),
    [
        (Watched, True, [26]),
        (Watched, False, [10, 8, 8]),
        (Normalized, True, [10, 8, 8]),
        (Dropping, True, [10, 8, 8]),
    ],
    ids=["independent", "switched off", "batch norm", "dropout"],
)
def test_batches_are_joined_where_that_changes_nothing(
    digits: Digits, kind: type[Watched], wanted: bool, passes: list[int]
) -> None:
    """Values and gradients are those of separate passes, also where some batches are empty."""
    torch.manual_seed(0)
    network = kind((1, 28, 28), 10, (12,))
    method = DERpp(network, 0.7, 0.3)
    Step(
        method, Scale(), Buffer(Reservoir(5, 8)), Streams(0),
        Settings(batch_size=10, one_forward=wanted), torch.device("cpu"),
    )  # fmt: skip
    z = stored_logits(8)
    batch, past = digits(0, 10), [digits(60, 68, logits=z), digits(80, 88, logits=z)]
    torch.manual_seed(1)
    loss = method.loss(batch, *past).loss
    assert network.passes == passes
    torch.manual_seed(1)
    apart = DERpp(network, 0.7, 0.3)
    apart.one_forward = False
    assert_same_with_gradient(method, loss, apart.loss(batch, *past).loss)
    network.passes.clear()
    logits = method.logits(batch, digits(0, 0), digits(3, 5))
    assert [tuple(each.shape) for each in logits] == [(10, 10), (0, 10), (2, 10)]
    assert network.passes == ([12] if passes == [26] else [10, 2])


# --- ER-ACE -----------------------------------------------------------------------------------


def gradient_on_logits(method: Any, *batches: Batch) -> list[Tensor]:
    """The loss's gradient on the logits of each batch, which the network saw joined or apart."""
    seen: list[Tensor] = []
    forward = method.backbone.forward

    def watched(x: Tensor) -> Tensor:
        logits: Tensor = forward(x)
        logits.retain_grad()
        seen.append(logits)
        return logits

    method.backbone.forward = watched
    method.loss(*batches).backward()
    gradients = torch.cat([logits.grad for logits in seen if logits.grad is not None])
    return list(gradients.split([len(batch) for batch in batches if batch]))


def test_er_ace_s_new_examples_do_not_push_absent_classes(make: Make, digits: Digits) -> None:
    method = make(ERACE)
    (gradient,) = gradient_on_logits(method, digits(0, 10, 2, 3), digits(0, 0))
    absent = [0, 1, 4, 5, 6, 7, 8, 9]
    assert not gradient[:, absent].any()
    assert gradient[:, [2, 3]].all()


def test_er_ace_s_replayed_examples_compete_among_all_classes_seen(
    make: Make, digits: Digits
) -> None:
    """Seen are 0 to 3, though the replay holds only 0 and 1; 4 to 9 are still to come."""
    method = make(ERACE)
    new, old = gradient_on_logits(method, digits(0, 10, 2, 3), digits(0, 6, 0, 1))
    assert not new[:, [0, 1, *range(4, 10)]].any()
    assert old[:, :4].all()
    assert not old[:, 4:].any()


def test_er_ace_is_the_sum_of_both_cross_entropies(make: Make, digits: Digits) -> None:
    method, batch, past = make(ERACE), digits(0, 10, 2, 3), digits(0, 6, 0, 1)
    expected = F.cross_entropy(method(batch.x)[:, 2:4], batch.y - 2) + F.cross_entropy(
        method(past.x)[:, :4], past.y
    )
    assert_same_with_gradient(method, method.loss(batch, past), expected)


def test_er_ace_s_present_classes_are_those_of_the_global_batch(make: Make, digits: Digits) -> None:
    """A part of the batch competes among the classes of the whole."""
    method, whole = make(ERACE), digits(0, 8, 2, 3)
    parts = [
        Batch(whole.raw[rows], whole.y[rows], whole.transform, total=8, all_y=whole.y)
        for rows in (whole.y == 2, whole.y == 3)
    ]
    assert all(parts), "both classes occur"
    nothing = digits(0, 0)
    total = sum(method.loss(part, nothing) for part in parts)
    torch.testing.assert_close(total, method.loss(whole, nothing))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_er_ace_stays_finite_in_half_precision(
    make: Make, digits: Digits, dtype: torch.dtype
) -> None:
    method = make(ERACE)
    method.task = Task(0, range(2), range(2))
    with torch.autocast("cpu", dtype=dtype):
        loss = method.loss(digits(0, 10, 0, 1), digits(0, 0))
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad.isfinite().all() for p in method.trainable())
