"""Optimizers: `SGD`, equal to `torch.optim.SGD` bit for bit, and the factory of a run's optimizer.

Constructing any optimizer of torch 2.13 imports torch._dynamo and sympy, 1.2 to 1.8 CPU seconds:
a quarter of a whole seq-mnist run. This one does not, and saves about 100 µs a step besides. It is
a `torch.optim.Optimizer` all the same, so that every scheduler of torch takes it.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from perdure.config.build import check, locate
from perdure.errors import UserError
from perdure.models.phase import Phase
from perdure.training.schedules import Schedule, check_schedule
from perdure.training.settings import Settings


class SGD(torch.optim.Optimizer):
    """SGD with momentum, Nesterov momentum and L2 weight decay, as torch defines them.

    Args:
        params: the parameters to update, or groups of them as torch takes them.
        lr: learning rate.
        momentum: factor of the velocity; 0 keeps no velocity.
        weight_decay: factor of the parameter added to its gradient.
        nesterov: whether to look ahead along the velocity; needs momentum.
    """

    def __init__(
        self,
        params: Iterable[Parameter] | Iterable[dict[str, Any]],
        lr: float,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
    ) -> None:
        for key, value in (("lr", lr), ("momentum", momentum), ("weight_decay", weight_decay)):
            if not value >= 0:
                raise UserError(f"optimizer.{key}={value}: must be 0 or more")
        if nesterov and momentum == 0:
            raise UserError("optimizer.nesterov=true needs optimizer.momentum above 0")
        self.defaults = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
            "dampening": 0.0,  # not offered here, but torch's SGD does not load a state without it
        }
        self.state = defaultdict(dict)
        self.param_groups = []
        given = list(params)
        in_groups = bool(given) and isinstance(given[0], dict)
        for group in given if in_groups else [{"params": given}]:
            self.add_param_group(group)  # type: ignore[arg-type]
        self._optimizer_step_pre_hooks = OrderedDict()
        self._optimizer_step_post_hooks = OrderedDict()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Update these parameters too, with options of their own."""
        self.param_groups.append(
            {**self.defaults, **param_group, "params": list(param_group["params"])}
        )

    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Update every parameter that has a gradient; returns the value of `closure`, run first."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        with torch.no_grad():
            for group in self.param_groups:
                params = [p for p in group["params"] if p.grad is not None]
                if params:
                    self._move(params, group)
        return loss

    def _move(self, params: list[Parameter], group: dict[str, Any]) -> None:
        weights: list[Tensor] = list(params)
        gradients: list[Tensor] = [p.grad for p in params]  # type: ignore[misc]
        if group["weight_decay"]:
            gradients = list(torch._foreach_add(gradients, weights, alpha=group["weight_decay"]))
        if group["momentum"]:
            pairs = list(zip(params, gradients, strict=True))
            velocities = self._accelerate(pairs, group["momentum"])
            if group["nesterov"]:
                gradients = list(torch._foreach_add(gradients, velocities, alpha=group["momentum"]))
            else:
                gradients = velocities
        torch._foreach_add_(weights, gradients, alpha=-group["lr"])

    def _accelerate(self, pairs: list[tuple[Parameter, Tensor]], momentum: float) -> list[Tensor]:
        """The new velocities; a first one is the gradient itself."""
        moving = [(self.state[p]["momentum_buffer"], g) for p, g in pairs if self.state[p]]
        if moving:
            velocities = [velocity for velocity, _ in moving]
            torch._foreach_mul_(velocities, momentum)
            torch._foreach_add_(velocities, [gradient for _, gradient in moving])
        for p, gradient in pairs:
            if not self.state[p]:
                self.state[p]["momentum_buffer"] = gradient.clone()
        return [self.state[p]["momentum_buffer"] for p, _ in pairs]

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients."""
        for group in self.param_groups:
            for p in group["params"]:
                if set_to_none or p.grad is None:
                    p.grad = None
                else:
                    p.grad.zero_()

    def state_dict(self) -> dict[str, Any]:  # type: ignore[override]
        """The same layout as `torch.optim.SGD`'s, which loads it."""
        numbers = {id(p): i for i, p in enumerate(self._parameters())}
        return {
            "state": {numbers[id(p)]: dict(values) for p, values in self.state.items() if values},
            "param_groups": [
                {**group, "params": [numbers[id(p)] for p in group["params"]]}
                for group in self.param_groups
            ],
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:  # type: ignore[override]
        """Restore a `state_dict` of this class or of `torch.optim.SGD`.

        Raises:
            ValueError: it is of other parameters, or needs an option that this class lacks.
        """
        for group, saved in zip(self.param_groups, state_dict["param_groups"], strict=True):
            if len(saved["params"]) != len(group["params"]):
                raise ValueError("the saved optimizer holds another number of parameters")
            for key in ("dampening", "maximize"):
                if saved.get(key):
                    raise ValueError(f"the saved optimizer has {key}={saved[key]}")
            group.update({k: v for k, v in saved.items() if k != "params"})
        parameters = self._parameters()
        self.state = defaultdict(dict)
        for number, values in state_dict["state"].items():
            velocity = values.get("momentum_buffer")
            if velocity is not None:
                p = parameters[number]
                self.state[p]["momentum_buffer"] = velocity.to(p, copy=True)

    def _parameters(self) -> list[Parameter]:
        return [p for group in self.param_groups for p in group["params"]]


Groups = list[dict[str, Any]]
"""Parameter groups as torch's optimizers take them: `params`, and options of each group's own."""


def _default_sgd(parameters: Groups) -> SGD:
    return SGD(parameters, lr=0.1)


def add_new_parameters(optimizer: torch.optim.Optimizer, groups: Groups) -> None:
    """Let a kept optimizer update the parameters of `groups` that it does not know yet, too."""
    known = {id(p) for group in optimizer.param_groups for p in group["params"]}
    for group in groups:
        new = [p for p in group["params"] if id(p) not in known]
        if new:
            optimizer.add_param_group({**group, "params": new})


def optimizer_of(node: Mapping[str, Any]) -> Callable[[Groups], torch.optim.Optimizer]:
    """A call with the parameters to the class that `node` names, with the rest of `node`.

    Raises:
        UserError: there is no such class, or it has no such option.
    """
    options = {key: value for key, value in node.items() if key != "_target_"}
    target = locate(node["_target_"], "optimizer")
    check(target, options, "optimizer")

    def make(parameters: Groups) -> Any:
        try:
            return target(parameters, **options)
        except (ValueError, TypeError) as error:
            raise UserError(f"optimizer: {error}") from error

    return make


def _with_options(
    make: Callable[[Groups], torch.optim.Optimizer], phase: Phase
) -> Callable[[Groups], torch.optim.Optimizer]:
    """`make` with the options of `phase` where a group has none of its own."""

    def made(groups: Groups) -> torch.optim.Optimizer:
        optimizer = make([{**phase.optimizer, **group} for group in groups])
        unknown = phase.optimizer.keys() - optimizer.defaults.keys()
        if unknown:
            raise UserError(
                f"optimizer: {type(optimizer).__name__} has no {', '.join(sorted(unknown))}, which "
                f"phase {phase.name} of the method sets; choose an optimizer that has, as "
                "optimizer=sgd"
            )
        return optimizer

    return made


@dataclass(frozen=True)
class OptimizerFactory:
    """Makes the optimizer and its learning-rate scheduler, at the start and where a task resets it.

    Attributes:
        optimizer: makes the optimizer of the given parameters.
        scheduler: makes the scheduler of that optimizer; a `Schedule` is given its length too.
            None for a constant learning rate.
    """

    optimizer: Callable[[Groups], torch.optim.Optimizer] = _default_sgd
    scheduler: Schedule | Callable[[torch.optim.Optimizer], Any] | None = None

    def __call__(self, groups: Groups, length: int = 1) -> tuple[torch.optim.Optimizer, Any | None]:
        """A new optimizer of `groups`, and its scheduler over `length` epochs or steps."""
        if not any(group["params"] for group in groups):  # which torch's optimizers refuse
            return SGD([], lr=0.0), None
        optimizer = self.optimizer(groups)
        if isinstance(self.scheduler, Schedule):
            return optimizer, self.scheduler(optimizer, length)
        return optimizer, self.scheduler(optimizer) if self.scheduler else None

    def of(self, phase: Phase) -> OptimizerFactory:
        """That of `phase`: its own options instead of the configuration's.

        Raises:
            UserError: the optimizer has no such option.
        """
        scheduler = self.scheduler if phase.is_main else None
        if phase.scheduler:
            scheduler = Schedule(phase.scheduler)
        optimizer = self.optimizer
        if "_target_" in phase.optimizer:
            optimizer = optimizer_of(phase.optimizer)
        elif phase.optimizer:
            optimizer = _with_options(optimizer, phase)
        return OptimizerFactory(optimizer, scheduler)

    def check(self, settings: Settings, accuracies: Sequence[str], lengths: Iterable[int]) -> None:
        """Refuse, before anything is trained, a scheduler that fails in one of the tasks.

        Args:
            settings: of the loop.
            accuracies: names of the accuracies that an evaluation computes.
            lengths: of the schedule of each task.

        Raises:
            UserError: says what to give instead.
        """
        if self.scheduler is None:
            return
        for length in dict.fromkeys(lengths):
            # Of no run: one that is stepped here, to see whether it can be.
            scheduler = self([{"params": [Parameter(torch.zeros(1))]}], length)[1]
            check_schedule(scheduler, settings, accuracies, length)
