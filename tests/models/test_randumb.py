"""RanDumb: the kernel that its features approach, and linear discriminant analysis on them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from kit import MakeTrainer, check_method

from perdure.backbones.mlp import MLP
from perdure.errors import UserError
from perdure.models.memory import Memory
from perdure.models.randumb import RanDumb


def randumb(embedding: int = 30, gamma: float = 0.1, shrinkage: float = 1e-4) -> RanDumb:
    torch.manual_seed(0)
    return RanDumb(MLP((1, 2, 3), 3, (4,)), embedding, gamma, shrinkage)


def test_products_of_features_approach_the_kernel() -> None:
    x = torch.randn(8, 1, 2, 3, generator=torch.Generator().manual_seed(1))
    method = randumb()
    method.embedding = 200_000  # without a covariance of so many
    phi = method.embed(x)
    kernel = [[np.exp(-0.1 * ((a - b) ** 2).sum()) for b in x.numpy()] for a in x.numpy()]
    np.testing.assert_allclose((phi @ phi.T / 200_000).numpy(), kernel, atol=0.02)


def test_it_is_discriminant_analysis_on_them() -> None:
    rng = np.random.default_rng(0)
    y = rng.integers(3, size=3000)
    x = torch.from_numpy(rng.normal(size=(3, 6))[y] + rng.normal(size=(3000, 6))).float()
    method = randumb(shrinkage=0.01)
    phi = method.embed(x.view(-1, 1, 2, 3))
    for rows in np.array_split(np.arange(3000), 30):
        method.update_statistics(phi[rows], torch.from_numpy(y[rows]))
    method.before_evaluation(Memory(None, lambda raw, _: raw), lambda n: ())
    f = phi.double().numpy()
    means = np.stack([f[y == c].mean(0) for c in range(3)])
    within = (f - means[y]).T @ (f - means[y]) / 3000
    inverse = np.linalg.inv(0.99 * within + 0.01 * np.eye(30))
    distance = [[(row - m) @ inverse @ (row - m) for m in means] for row in f]
    found = method.predict(x.view(-1, 1, 2, 3)).argmax(1).numpy()
    assert (found == np.argmin(distance, 1)).mean() > 0.99


def test_a_saved_state_brings_its_random_features() -> None:
    x = torch.ones(2, 1, 2, 3)
    first = randumb()
    torch.manual_seed(1)
    second = RanDumb(MLP((1, 2, 3), 3, (4,)), 30, 0.1, 1e-4)
    assert not torch.equal(first.embed(x), second.embed(x))
    second.load_state_dict(first.state_dict())
    assert torch.equal(first.embed(x), second.embed(x))


def test_the_network_is_not_used(make_trainer: MakeTrainer) -> None:
    method = randumb()
    x = torch.ones(2, 1, 2, 3)
    before = method.embed(x)
    with torch.no_grad():
        for parameter in method.backbone.parameters():
            parameter.zero_()
    assert torch.equal(method.embed(x), before)
    assert not method.trainable()
    trainer = make_trainer(lambda network: RanDumb(network, 200, 0.01, 1e-4), buffer=None)
    trainer.fit()
    accuracies = trainer.state.results.summary()["accuracy_matrix"]["class_il"][-1]
    assert sum(accuracies) / 3 > 0.6, "of ten digits, by 200 random features"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"embedding": 0}, r"model\.embedding=0: must be an integer of 1 or more"),
        ({"gamma": 0.0}, r"model\.gamma=0\.0: out of range; must be above 0"),
        ({"shrinkage": 0.0}, r"model\.shrinkage=0\.0: must be above 0 and at most 1"),
    ],
)
def test_values_that_make_no_sense_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        randumb(**options)  # type: ignore[arg-type]


def test_the_contract_of_a_method() -> None:
    check_method(RanDumb, {"embedding": 30, "gamma": 0.01, "shrinkage": 1e-4})
