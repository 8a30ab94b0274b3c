"""Start-up checks: which method, benchmark, buffer, transform and settings can be combined."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from perdure.backbones.heads import NCM, Identity
from perdure.buffers import policy
from perdure.buffers.base import Buffer
from perdure.config.rules import check_stop_after
from perdure.config.schema import LossScope, Parallel, ReplaySync
from perdure.config.task_sizes import check_epochs
from perdure.datasets.batch import Transform
from perdure.datasets.classes import Classes
from perdure.datasets.scenarios import Scenario
from perdure.errors import UserError
from perdure.models.base import Method, Task
from perdure.models.phase import MAIN
from perdure.models.replay import draws_by_group, method_draws, uses_buffer
from perdure.ranks import shards
from perdure.training.replay import stores_each_step
from perdure.training.settings import Settings

_REFERENCE_BYTES = 4 << 30
"""What the reference gradients of one step may take."""


def check(
    method: Method,
    benchmark: Scenario,
    settings: Settings,
    buffer: Buffer | None,
    world_size: int = 1,
) -> None:
    """Refuse combinations that make no sense.

    Raises:
        UserError: names the combination.
    """
    name = type(method).__name__
    if uses_buffer(method) and buffer is None:
        verb = "replays from" if method.replays else "keeps exemplars in"
        raise UserError(f"{name} {verb} a buffer: give it one")
    if buffer is not None and uses_buffer(method):
        policy.check(
            buffer.policy,
            method.stored_fields,
            method.store_at == "step",
            method.defines("annotate"),
        )
    if not benchmark.suits(method.scenarios):
        raise UserError(
            f"{name} is defined for {' and '.join(method.scenarios)} benchmarks, not for a "
            f"{benchmark.kind} one"
        )
    if settings.joint and not method.joint:
        raise UserError(f"{name} cannot train jointly")
    check_stop_after(settings.stop_after, benchmark.n_tasks, "the benchmark")
    check_epochs(settings.epochs, benchmark.n_tasks, settings.joint)
    check_one_pass(benchmark, settings)
    if not settings.joint:
        _check_boundaries(method, benchmark, buffer)
    shards.check(settings.n_shards, world_size)
    if settings.n_shards > 1 and not method.additive:
        raise UserError(
            f"training.shards={settings.n_shards}: the loss of {name} is not a mean over "
            "examples, so its batches cannot be split; train it on one process"
        )
    if settings.sync_batchnorm:
        shards.check_sync_batchnorm(settings.n_shards, world_size)
    _check_head(method, settings)
    _check_steps(method, settings)
    _check_references(method, benchmark, settings)
    split = settings.parallel is Parallel.fsdp and world_size > 1
    if (method.defines("grow") or method.backbone.grows) and (
        split or (settings.n_shards > 1 and not settings.exact)
    ):
        raise UserError(
            f"{name} grows with the tasks, and training.exact=false and training.parallel=fsdp fix "
            "the parameters at the start; leave both as they are by default"
        )
    if split and method.needs_full_parameters:
        raise UserError(
            f"training.parallel=fsdp: {name} computes with whole parameters, which no process "
            "holds then; use training.parallel=replicate"
        )
    if buffer is not None and uses_buffer(method):
        _check_information(method, buffer.policy, split)


def _check_information(method: Method, chooses: policy.Policy, split: bool) -> None:
    """Refuse a policy that looks at losses or gradients where there are none of whole networks."""
    needs = [need for need in chooses.needs if need in ("losses", "gradients")]
    if not needs:
        return
    what = f"buffer={chooses.name or type(chooses).__name__}: chooses examples by their {needs[0]}"
    name = type(method).__name__
    if isinstance(method.backbone.head, Identity) and not method.defines("forward"):
        raise UserError(
            f"{what}, and with head=none {name} has no scores of classes; choose another head, or "
            "a buffer that needs no scores, as buffer=reservoir"
        )
    if split:
        raise UserError(
            f"{what}, which take whole parameters; training.parallel=fsdp splits them, so use "
            "training.parallel=replicate, or buffer=reservoir"
        )


def _check_head(method: Method, settings: Settings) -> None:
    """Refuse a head that the method cannot be trained or evaluated with."""
    name, head = type(method).__name__, method.backbone.head
    if isinstance(head, Identity) and not (method.defines("forward") or method.defines("predict")):
        raise UserError(
            f"head=none: {name} takes its scores from the backbone's head; head=none is for a "
            "method that defines `forward` or `predict`"
        )
    hooks = ("before_task", "before_phase", "after_step", "after_batch", "after_task")
    if isinstance(head, NCM) and not any(map(method.defines, hooks)):
        raise UserError(
            f"head=ncm: {name} does not update class means, and nothing else does; choose another "
            "head"
        )
    if method.backbone.grows:
        _check_growing(method, settings)


def _check_growing(method: Method, settings: Settings) -> None:
    name, scope = type(method).__name__, settings.loss_scope
    if scope is LossScope.full or (scope is None and method.loss_scope == "full"):
        value = "null" if scope is None else scope.name
        raise UserError(
            f"training.loss_scope={value} with head.growing=true: a loss over all classes needs "
            f"scores of those to come{'' if scope else f' ({name} has it by itself)'}; must be "
            "seen or current"
        )
    if "logits" in method.stored_fields:
        raise UserError(
            f"head.growing=true: {name} compares stored logits, and of classes that came later "
            "there are none; use head.growing=false"
        )
    names = [name for name, _ in (*method.named_parameters(), *method.named_buffers())]
    own = {name.partition(".")[0] for name in names} - {"backbone"}
    if own and not method.defines("grow"):
        raise UserError(
            f"head.growing=true: {name} has tensors of its own ({', '.join(sorted(own))}) that are "
            "made for a network of a fixed size, and no `grow` that changes them; use "
            "head.growing=false"
        )


def _check_boundaries(method: Method, benchmark: Scenario, buffer: Buffer | None) -> None:
    """Refuse a method that must know where tasks end on a stream that has none."""
    if benchmark.boundaries:
        return
    name = type(method).__name__
    stores = uses_buffer(method) and not stores_each_step(method, buffer)
    phased = tuple(method.phases(Task(0, Classes(), Classes()))) != (MAIN,)
    if method.needs_boundaries or stores or phased or method.defines("after_task"):
        what = "stores examples" if stores else "does something"
        raise UserError(
            f"{name} {what} when a task ends, and a {benchmark.kind} stream has no tasks; choose "
            "a method, and a buffer, that need no boundaries, as model=er buffer=reservoir"
        )
    if method.backbone.grows:
        raise UserError(
            f"head.growing=true: a {benchmark.kind} stream does not say which classes come; must "
            "be false"
        )


def check_one_pass(benchmark: Scenario, settings: Settings) -> None:
    """Refuse to go through a stream without boundaries more than once; a joint run may.

    Raises:
        UserError: names the key that says so.
    """
    if benchmark.boundaries or settings.joint:
        return
    name, n = type(benchmark).__name__, benchmark.n_train(0)
    if settings.iterations is None and settings.epochs_of(0) > 1:
        raise UserError(
            f"dataset.epochs={settings.epochs}: {name} is a stream without boundaries, which is "
            "seen once; must be 1"
        )
    if (settings.iterations or 0) * settings.batch_size >= n + settings.batch_size:
        raise UserError(
            f"dataset.iterations={settings.iterations}: {name} is a stream without boundaries, "
            f"which is seen once; must be at most {-(-n // settings.batch_size)}"
        )


def check_optimizer(method: Method, optimizer: torch.optim.Optimizer) -> None:
    """Refuse an optimizer that the method's own moves of the weights do not go with.

    Raises:
        UserError: names it.
    """
    if not method.plain_sgd:
        return
    name, options = type(method).__name__, optimizer.defaults
    given = [key for key in ("momentum", "weight_decay") if options.get(key)]
    if given or type(optimizer).__name__ != "SGD":
        shown = f"optimizer.{given[0]}={options[given[0]]}" if given else "optimizer"
        raise UserError(
            f"{shown}: {name} moves the weights between the optimizer's steps, which only plain "
            "SGD goes with; give optimizer=sgd with momentum and weight_decay of 0"
        )


def _check_references(method: Method, benchmark: Scenario, settings: Settings) -> None:
    """Refuse more reference gradients than there is memory for: one of each task or class."""
    if not (draws_by_group(method) and method.defines("references")):
        return
    n_tasks = settings.stop_after or benchmark.n_tasks
    groups = {"task": n_tasks - 1, "class": benchmark.n_classes, "uniform": 1}
    n = sum(groups[draw.by] for draw in method_draws(method))
    numbers, shards = sum(p.numel() for p in method.trainable()), settings.n_shards
    needed = 4 * numbers * n * shards
    if needed > _REFERENCE_BYTES:
        in_shards = f" in {shards} shards" if shards > 1 else ""
        raise UserError(
            f"dataset.n_tasks={n_tasks}: {type(method).__name__} computes a gradient of "
            f"{numbers:,} numbers for each of {n} replay draws{in_shards}, "
            f"{needed / 1e9:.1f} GB at each step; must be {_REFERENCE_BYTES / 1e9:.1f} GB or less: "
            "give a smaller network or fewer tasks (dataset.stop_after)"
        )


def _check_steps(method: Method, settings: Settings) -> None:
    """Refuse what the method's own steps do not go with."""
    name = type(method).__name__
    if settings.updates > 1 and method.defines("updates"):
        raise UserError(
            f"training.updates={settings.updates}: {name} says itself how many optimizer steps it "
            "takes on a batch; must be 1"
        )
    if settings.replay_sync is ReplaySync.local and method.keeps_exemplars:
        raise UserError(
            f"training.replay_sync=local: {name} trains on the whole memory, of which each process "
            "has a part then; use training.replay_sync=replicated"
        )
    if settings.evaluate_future and method.evaluable == "task end":
        raise UserError(
            f"training.evaluate_future=true: {name} can be measured at the end of a task that it "
            "was trained on alone; must be false"
        )
    if method.evaluable == "task end" and settings.evaluate_every is not None:
        raise UserError(
            f"training.evaluate_every={settings.evaluate_every}: {name} can be measured at a "
            "task's end alone; must be null"
        )


def sizes(benchmark: Scenario, settings: Settings) -> list[int]:
    """How many training examples each task of the benchmark has; jointly there is but one task."""
    each = [benchmark.n_train(task) for task in range(benchmark.n_tasks)]
    return [sum(each)] if settings.joint else each


def check_data(
    benchmark: Scenario, settings: Settings, transform: Transform, sizes: Sequence[int]
) -> None:
    """Refuse tasks without examples, and a transform that does not fit the images.

    Raises:
        UserError: names the task, or what does not fit.
    """
    last = settings.stop_after or benchmark.n_tasks
    measures_all = settings.joint or settings.evaluate_future
    for task in range(benchmark.n_tasks if measures_all else last):
        name = f"task {task} ({benchmark.label(task)})"
        if not settings.joint and task < last and not sizes[task]:
            raise UserError(
                f"{name} has no training examples; choose another dataset.n_tasks or "
                "dataset.class_order, or data that have some"
            )
        if not benchmark.n_evaluation(task):
            raise UserError(_nothing_to_measure(name, benchmark.split))
    one = torch.zeros(1, *benchmark.shape, dtype=torch.uint8, device=benchmark.device)
    try:
        transform(one, None)
    except (RuntimeError, ValueError, IndexError) as error:
        shape = "x".join(map(str, benchmark.shape))
        reason = str(error).partition("\n")[0]
        raise UserError(
            f"dataset.transform: does not fit images of {shape} (channels, height, width): {reason}"
        ) from error


def _nothing_to_measure(name: str, split: str) -> str:
    if split == "test":
        return f"{name} has no test examples, so accuracy on it cannot be measured"
    return (
        f"{name} has no validation examples, so accuracy on it cannot be measured: each of its "
        "classes has one training example, and dataset.validation holds one out of two or more"
    )


def smallest_batch(
    method: Method, benchmark: Scenario, settings: Settings, sizes: Sequence[int]
) -> int:
    """How many examples a batch must have: 1, unless batch norm cannot train on a single one.

    A shard needs two examples then. Fewer than that at an epoch's end join the last batch.

    Raises:
        UserError: the batches, or a task, are smaller than that.
    """
    needed = 2 * settings.n_shards
    sizes = sizes[: settings.stop_after]
    is_met = settings.batch_size >= needed and not any(
        0 < n % settings.batch_size < needed for n in sizes
    )
    if is_met or settings.sync_batchnorm or trains_on_one(method.backbone, benchmark):
        return 1
    if settings.batch_size < needed:
        raise UserError(
            f"dataset.batch_size={settings.batch_size}: the network's batch norm cannot train on "
            f"a single example; give {needed} or more, two for each of the "
            f"{settings.n_shards} shards"
        )
    for task, n in enumerate(sizes):
        if n < needed:
            raise UserError(
                f"task {task} has {n} training examples, and the network's batch norm needs "
                f"{needed} a batch, two for each of the {settings.n_shards} shards"
            )
    return needed


def smallest_phase_batch(method: Method, benchmark: Scenario, settings: Settings) -> int:
    """`smallest_batch` of phases with other examples than the task's, of which any may be left."""
    if settings.sync_batchnorm or trains_on_one(method.backbone, benchmark):
        return 1
    return 2 * settings.n_shards


def trains_on_one(network: nn.Module, benchmark: Scenario) -> bool:
    """Whether `network` can be trained on a single example, which batch norm may refuse."""
    norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    if not norms:
        return True
    kept = {name: value.clone() for name, value in network.named_buffers()}
    one = torch.zeros(1, *benchmark.shape, device=benchmark.device)
    was_training = network.training
    network.train()
    try:
        with torch.no_grad():
            network(one)
    except ValueError:  # "Expected more than 1 value per channel when training"
        return False
    finally:
        network.train(was_training)
        for name, value in network.named_buffers():
            value.copy_(kept[name])
    return True


def joined_batches(least: int) -> str | None:
    """A sentence where the last examples of an epoch join a batch; None where none ever do."""
    if least < 2:
        return None
    return (
        f"the network's batch norm cannot train on a single example: fewer than {least} that an "
        "epoch leaves over join its last batch"
    )
