"""Our SGD against torch's, to the bit, and what it must not drag in."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, MultiStepLR, OneCycleLR

from perdure.errors import UserError
from perdure.training.optim import SGD

STEPS = 60

COMBINATIONS = [
    {"lr": 0.1},
    {"lr": 0.03, "weight_decay": 1e-3},
    {"lr": 0.1, "momentum": 0.9},
    {"lr": 0.1, "momentum": 0.9, "nesterov": True},
    {"lr": 0.01, "momentum": 0.5, "weight_decay": 0.1},
    {"lr": 0.01, "momentum": 0.99, "weight_decay": 5e-4, "nesterov": True},
    {"lr": 0.0, "momentum": 0.9},
    {"lr": 1},
]


def label(options: dict[str, Any]) -> str:
    return "-".join(f"{key}={value}" for key, value in options.items())


every_combination = pytest.mark.parametrize("options", COMBINATIONS, ids=label)


def network() -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(20, 33), nn.ReLU(), nn.Linear(33, 7), nn.BatchNorm1d(7))
    with torch.no_grad():
        net[0].bias[::2] = -0.0  # the sign of a zero is a bit like any other
    return net


def feed(net: nn.Module, step: int) -> None:
    """Leave gradients of a loss that is another at each step; some are zero of either sign."""
    generator = torch.Generator().manual_seed(step)
    x, y = torch.randn(16, 20, generator=generator), torch.randn(16, 7, generator=generator)
    ((net(x) - y) ** 2).mean().backward()
    net[0].bias.grad[::4] = -0.0  # type: ignore[union-attr, index]


def run(optimizer: Any, net: nn.Module, steps: range, to_none: bool = True) -> None:
    for step in steps:
        optimizer.zero_grad(set_to_none=to_none)
        feed(net, step)
        optimizer.step()


def bits(net: nn.Module) -> list[Tensor]:
    return [p.detach().view(torch.int32).clone() for p in net.parameters()]


def equal(first: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(bits(first), bits(other), strict=True))


def velocities_equal(first: torch.optim.Optimizer, other: torch.optim.Optimizer) -> bool:
    a, b = (
        {k: v["momentum_buffer"].view(torch.int32) for k, v in o.state_dict()["state"].items() if v}
        for o in (first, other)
    )
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@every_combination
@pytest.mark.parametrize("foreach", [False, True, None], ids=["loop", "foreach", "default"])
def test_equal_to_torch_bit_for_bit(options: dict[str, Any], foreach: bool | None) -> None:
    ours, reference = network(), network()
    a = SGD(ours.parameters(), **options)
    b = torch.optim.SGD(reference.parameters(), foreach=foreach, **options)
    for step in range(STEPS):
        run(a, ours, range(step, step + 1))
        run(b, reference, range(step, step + 1))
        assert equal(ours, reference), f"at step {step}"
    assert velocities_equal(a, b)
    pairs = zip(ours.parameters(), network().parameters(), strict=True)
    assert {torch.equal(p, q) for p, q in pairs} == {options["lr"] == 0}


@every_combination
@pytest.mark.parametrize("direction", ["to torch", "from torch", "to itself"])
def test_state_goes_either_way(options: dict[str, Any], direction: str) -> None:
    first, second = {
        "to torch": (SGD, torch.optim.SGD),
        "from torch": (torch.optim.SGD, SGD),
        "to itself": (SGD, SGD),
    }[direction]
    straight, moved = network(), network()
    run(SGD(straight.parameters(), **options), straight, range(STEPS))
    before = first(moved.parameters(), **options)
    run(before, moved, range(20))
    after = second(moved.parameters(), lr=5.0)  # the state brings the rest
    after.load_state_dict(copy.deepcopy(before.state_dict()))
    run(after, moved, range(20, STEPS))
    assert equal(straight, moved)


def test_a_loaded_velocity_is_a_copy_in_the_parameter_s_own_type() -> None:
    net = network()
    optimizer = SGD(net.parameters(), lr=0.1, momentum=0.9)
    run(optimizer, net, range(3))
    state = copy.deepcopy(optimizer.state_dict())
    held = {k: v["momentum_buffer"].clone() for k, v in state["state"].items()}
    wide = network().double()
    other = SGD(wide.parameters(), lr=0.1, momentum=0.9)
    other.load_state_dict(state)
    assert {v["momentum_buffer"].dtype for v in other.state.values()} == {torch.float64}
    optimizer.load_state_dict(state)
    run(optimizer, net, range(3, 5))
    assert all(torch.equal(state["state"][k]["momentum_buffer"], v) for k, v in held.items())


def test_a_loaded_state_takes_the_place_of_all_that_was_there() -> None:
    net, other = network(), network()
    optimizer = SGD(net.parameters(), lr=0.1, momentum=0.9)
    run(optimizer, net, range(3))
    optimizer.load_state_dict(SGD(net.parameters(), lr=0.1, momentum=0.9).state_dict())
    net.load_state_dict(other.state_dict())
    run(optimizer, net, range(3, 6))
    run(SGD(other.parameters(), lr=0.1, momentum=0.9), other, range(3, 6))
    assert equal(net, other)


@pytest.mark.parametrize("key", ["dampening", "maximize"])
def test_a_state_that_means_something_else_is_refused(key: str) -> None:
    net = network()
    foreign = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, **{key: 1})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=f"{key}=1"):
        SGD(net.parameters(), lr=0.1).load_state_dict(foreign.state_dict())


def test_a_state_of_other_parameters_is_refused() -> None:
    state = SGD(network().parameters(), lr=0.1).state_dict()
    with pytest.raises(ValueError, match="another number of parameters"):
        SGD(nn.Linear(2, 2).parameters(), lr=0.1).load_state_dict(state)


@pytest.mark.parametrize("options", COMBINATIONS[2:6], ids=label)
def test_parameters_without_gradient_stay_and_may_join_later(options: dict[str, Any]) -> None:
    ours, reference = network(), network()
    a = SGD(ours.parameters(), **options)
    b = torch.optim.SGD(reference.parameters(), foreach=False, **options)
    for step in range(STEPS):
        for optimizer, net in ((a, ours), (b, reference)):
            optimizer.zero_grad()
            feed(net, step)
            if step < 10 or step % 3 == 0:
                net[2].weight.grad = None
            optimizer.step()
        if step < 10:
            assert torch.equal(ours[2].weight, network()[2].weight)
    assert equal(ours, reference)
    assert velocities_equal(a, b)
    assert not torch.equal(ours[2].weight, network()[2].weight)


SCHEDULERS: dict[str, Callable[[torch.optim.Optimizer], Any]] = {
    "multistep": lambda o: MultiStepLR(o, [10, 30], 0.1),
    "cosine": lambda o: CosineAnnealingLR(o, T_max=50, eta_min=1e-3),
    "lambda": lambda o: LambdaLR(o, lambda step: 0.9**step),
    "one-cycle": lambda o: OneCycleLR(o, max_lr=0.5, total_steps=STEPS),
}


@pytest.mark.parametrize("make", SCHEDULERS.values(), ids=SCHEDULERS)
@pytest.mark.filterwarnings("error::UserWarning")
def test_torch_schedulers_drive_it_as_they_drive_torch_s(
    make: Callable[[torch.optim.Optimizer], Any],
) -> None:
    nets = [network(), network()]
    options = {"lr": 0.2, "momentum": 0.9}
    optimizers = [SGD(nets[0].parameters(), **options)]
    optimizers.append(torch.optim.SGD(nets[1].parameters(), **options))  # type: ignore[arg-type]
    rates: list[list[float]] = [[], []]
    for i, (net, optimizer) in enumerate(zip(nets, optimizers, strict=True)):
        scheduler = make(optimizer)
        for step in range(STEPS - 1):
            run(optimizer, net, range(step, step + 1))
            scheduler.step()
            rates[i].append(optimizer.param_groups[0]["lr"])
    assert rates[0] == rates[1]
    assert len(set(rates[0])) > 1
    assert equal(*nets)


@pytest.mark.parametrize("overflow", [False, True], ids=["finite", "overflow"])
def test_grad_scaler_drives_it_as_it_drives_torch_s(overflow: bool) -> None:
    """Unscaling, skipping a step whose gradients are infinite, and the growth of the scale."""
    nets = [network(), network()]
    optimizers = [SGD(nets[0].parameters(), lr=0.1, momentum=0.9)]
    optimizers.append(torch.optim.SGD(nets[1].parameters(), lr=0.1, momentum=0.9))  # type: ignore[arg-type]
    scalers = [torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=5) for _ in nets]
    for step in range(12):
        for net, optimizer, scaler in zip(nets, optimizers, scalers, strict=True):
            optimizer.zero_grad()
            scaler.scale(net(torch.ones(4, 20) * step).square().mean()).backward()
            if overflow and step == 6:
                net[0].weight.grad[0, 0] = float("inf")
            scaler.unscale_(optimizer)
            scaler.step(optimizer)
            scaler.update()
    assert scalers[0].state_dict() == scalers[1].state_dict()
    assert equal(*nets)
    assert all(p.isfinite().all() for p in nets[0].parameters())


def test_a_closure_is_called_with_gradients_before_the_step() -> None:
    losses = []
    nets = [network(), network()]
    for net, kind in zip(nets, (SGD, torch.optim.SGD), strict=True):
        optimizer = kind(net.parameters(), lr=0.1)

        def closure(net: nn.Module = net) -> Tensor:
            loss: Tensor = net(torch.ones(4, 20)).square().sum()
            loss.backward()
            return loss

        losses.append(optimizer.step(closure))
    assert torch.equal(*losses)
    assert equal(*nets)
    assert not equal(nets[0], network())


def test_gradients_that_stay_in_place_are_not_taken_for_velocities() -> None:
    nets = [network(), network()]
    for net, kind in zip(nets, (SGD, torch.optim.SGD), strict=True):
        optimizer = kind(net.parameters(), lr=0.1, momentum=0.9)
        run(optimizer, net, range(20), to_none=False)
    assert equal(*nets)


@pytest.mark.parametrize("to_none", [True, False], ids=["none", "zero"])
def test_zero_grad(to_none: bool) -> None:
    net = network()
    net[2].bias.requires_grad_(False)
    optimizer = SGD(net.parameters(), lr=0.1)
    feed(net, 0)
    optimizer.zero_grad(set_to_none=to_none)
    gradients = [p.grad for p in net.parameters() if p.requires_grad]
    assert all(g is None if to_none else g is not None and not g.any() for g in gradients)


def test_each_group_keeps_its_own_options() -> None:
    nets = [network(), network()]
    for net, kind in zip(nets, (SGD, torch.optim.SGD), strict=True):
        optimizer = kind(net[0].parameters(), lr=0.1)
        optimizer.add_param_group({"params": net[2].parameters(), "lr": 0.01, "momentum": 0.9})
        run(optimizer, net, range(20))
    assert equal(*nets)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": -0.1}, "optimizer.lr=-0.1: must be 0 or more"),
        ({"lr": float("nan")}, "optimizer.lr=nan"),
        ({"lr": 0.1, "momentum": -1}, "optimizer.momentum=-1"),
        ({"lr": 0.1, "weight_decay": -1}, "optimizer.weight_decay=-1"),
        ({"lr": 0.1, "nesterov": True}, "nesterov=true needs optimizer.momentum above 0"),
    ],
    ids=["lr", "nan", "momentum", "weight-decay", "nesterov"],
)
def test_values_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        SGD(network().parameters(), **options)


@pytest.mark.process
def test_it_does_not_import_the_compiler() -> None:
    """Making any optimizer of torch imports torch._dynamo and sympy: over a second of start-up."""
    program = """
import sys, torch
from perdure.training.optim import SGD
net = torch.nn.Linear(2, 2)
for options in ({}, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}):
    optimizer = SGD(net.parameters(), lr=0.1, **options)
    net(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    optimizer.load_state_dict(optimizer.state_dict())
    optimizer.zero_grad()
print([name for name in ("torch._dynamo", "sympy") if name in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
