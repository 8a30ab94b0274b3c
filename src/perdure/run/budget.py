"""Equal memory for methods (`budget.bytes`): the size of the buffer that a budget leaves."""

from __future__ import annotations

import torch

from perdure.buffers.policy import Policy
from perdure.datasets.batch import Batch
from perdure.datasets.scenarios import Scenario
from perdure.datasets.transforms import Scale
from perdure.errors import UserError
from perdure.models.base import Method, StepOutput
from perdure.models.replay import draws_by_group, method_draws
from perdure.training.cost import weights
from perdure.training.hooks import Hooks
from perdure.training.settings import Settings

_EXAMPLES = 2


def places(
    budget: int,
    method: Method,
    policy: Policy | None,
    benchmark: Scenario,
    settings: Settings,
    transform: Scale,
) -> int:
    """How many examples the buffer may hold so that all that is kept takes at most `budget` bytes.

    What is kept is `cost.bytes.total` of results.json after the last task: parameters, statistics,
    other networks, and exemplars with all that is stored with each. There are never more places
    than training examples; 0 for a method without a buffer, whose rest must fit all the same.

    Args:
        budget: bytes.
        method: a fresh one, which is grown to the last task here.
        policy: of its buffer; None for a method without one.
        benchmark: the tasks.
        settings: how to train.
        transform: raw bytes to inputs.

    Raises:
        UserError: the budget is too small.
    """
    hooks = Hooks(method, benchmark, settings, transform)
    n_tasks = 1 if settings.joint else settings.stop_after or benchmark.n_tasks
    hooks.grow_to(n_tasks - 1)
    fixed, name = sum(weights(method)[1].values()), type(method).__name__
    if policy is None:
        if fixed > budget:
            raise UserError(f"budget.bytes={budget}: {name} keeps {fixed}; must be {fixed} or more")
        return 0
    each = bytes_of_example(method, policy, benchmark, transform)
    n = (budget - fixed) // each
    if n < 1:
        raise UserError(
            f"budget.bytes={budget}: {name} on this network keeps {fixed} bytes beside its buffer, "
            f"and an example takes {each}; must be {fixed + each} or more"
        )
    return min(n, sum(benchmark.n_train(task) for task in range(benchmark.n_tasks)))


@torch.no_grad()
def bytes_of_example(method: Method, policy: Policy, benchmark: Scenario, transform: Scale) -> int:
    """Bytes of an example in the buffer: its image, its label, and what is stored with it."""
    split = benchmark.train(0)
    raw, y = split.x[:_EXAMPLES], split.y[:_EXAMPLES]
    batch = Batch(raw, y, transform)
    each = raw[0].nbytes + y[0].nbytes
    if policy.uses_tasks or "task" in method.stored_fields or draws_by_group(method):
        each += y[0].nbytes
    fields = [name for name in method.stored_fields if name != "task"]
    if not fields:
        return each
    was_training = method.training
    method.eval()
    if method.store_at == "task" or policy.at_task_end:
        stored = method.annotate(batch)
    else:
        draws = [draw for draw in method_draws(method) if draw.by == "uniform"]
        output = method.loss(batch, *(Batch(raw[:0], y[:0], transform) for _ in draws))
        stored = output.remember if isinstance(output, StepOutput) else {}
    method.train(was_training)
    return each + sum(stored[name][0].nbytes for name in fields)
