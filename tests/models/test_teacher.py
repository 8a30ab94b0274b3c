"""A teacher stays as it is, whatever its owner does."""

from __future__ import annotations

import torch
from torch import nn

from perdure.backbones.resnet import ReducedResNet18
from perdure.models.teacher import Teacher, frozen


def network() -> ReducedResNet18:
    torch.manual_seed(0)
    return ReducedResNet18((1, 8, 8), 4, width=2)


def test_it_is_frozen_in_evaluation_mode_and_has_weights_of_its_own() -> None:
    student = network()
    owner = nn.ModuleDict({"old": Teacher(student), "new": student})
    teacher: Teacher = owner["old"]  # type: ignore[assignment]
    owner.train()
    assert student.training
    assert not any(module.training for module in teacher.modules())
    assert not any(p.requires_grad for p in teacher.parameters())
    x = torch.randn(6, 1, 8, 8)
    scores, features = teacher(x), teacher.features(x)
    assert not scores.requires_grad
    assert not features.requires_grad
    maps, same = teacher.maps_and_features(x)
    assert torch.equal(same, features)
    assert len(maps) == 4
    assert not any(h.requires_grad for h in maps)
    student(x)  # moves the student's batch statistics
    with torch.no_grad():
        for p in student.parameters():
            p.mul_(0.5)
    assert torch.equal(teacher(x), scores)
    assert torch.equal(teacher.network.head(features), scores)
    student.eval()
    assert not torch.allclose(student(x), scores)
    teacher.learn(student)
    assert torch.equal(teacher(x), student(x))


def test_a_network_can_be_frozen_for_a_while() -> None:
    student = network().train()
    before = {name: value.clone() for name, value in student.named_buffers()}
    with frozen(student):
        assert not student(torch.randn(6, 1, 8, 8)).requires_grad
        assert not any(module.training for module in student.modules())
    assert all(module.training for module in student.modules())
    assert all(torch.equal(value, before[name]) for name, value in student.named_buffers())
    assert torch.is_grad_enabled()
