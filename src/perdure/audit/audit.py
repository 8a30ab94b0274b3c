"""The audit of a method on a benchmark: all checks, one after another."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from perdure.audit import invariants, leaks
from perdure.audit.outcome import Outcome, outcome_of
from perdure.audit.run import WatchedRun, watched_run
from perdure.audit.trial import Trial, trial_of
from perdure.config.compose import compose
from perdure.config.method_name import method_name
from perdure.config.overrides import Arguments
from perdure.config.schema import Mode
from perdure.config.typed import typed
from perdure.config.validation import validate
from perdure.errors import UserError
from perdure.run.method_checks import check_method
from perdure.run.target_overrides import drop_unaccepted_options

Check = Callable[[Trial, WatchedRun], str]
CHECKS: dict[str, Check] = {
    "test batches": leaks.test_batches,
    "task identity": leaks.task_identity,
    "future classes": leaks.future_classes,
    "number of tasks": leaks.number_of_tasks,
    "number of classes": leaks.number_of_classes,
    "test set": leaks.test_set,
    "memory": invariants.memory,
    "frozen parts": invariants.frozen,
    "pure loss": invariants.pure_loss,
    "base method": invariants.base,
    "measuring": invariants.measuring,
    "resume": invariants.resume,
    "batch parts": invariants.batch_parts,
}
WORLD_SIZE = "world size"
"""The check that starts processes of its own."""


@dataclass(frozen=True)
class Audit:
    """A method on a benchmark, ready to be checked.

    Attributes:
        words: Hydra's flags, each one word, then overrides.
        trial: the configuration, cut down.
    """

    words: tuple[str, ...]
    trial: Trial

    @property
    def title(self) -> str:
        """What is audited, and on what part of the benchmark."""
        config, trial = self.trial.config, self.trial
        parts = [f"{len(trial.groups)} of {trial.whole.n_tasks} tasks"]
        parts.append(f"{trial.n_train} training examples each")
        if trial.capacity:
            parts.append(f"a buffer of {trial.capacity}")
        return f"audit of {method_name(config)} on {config.dataset.name}: {', '.join(parts)}"

    def outcomes(self, names: Sequence[str] = ()) -> Iterator[Outcome]:
        """The outcomes of the checks called `names`, or of all, as they come.

        Raises:
            UserError: the configuration cannot be trained.
        """
        run = watched_run(self.trial)
        every: dict[str, Check] = {**CHECKS, WORLD_SIZE: partial(invariants.world_size, self.words)}
        for name in names or every:
            yield outcome_of(name, partial(every[name], self.trial, run))


def audit_of(words: Sequence[str]) -> Audit:
    """The audit of what `perdure train` with these words would train.

    Raises:
        UserError: the configuration cannot be audited.
    """
    command = Arguments(tuple(words))
    typed_here = [each.text for each in command.overrides]
    composed = compose(*command.search_path, *typed_here)
    validate(composed)
    composed, _ = drop_unaccepted_options(composed, typed_here)
    config = typed(composed)
    check_method(config, typed_here)
    if config.training.mode is Mode.joint:
        raise UserError("training=joint: an audit is of training on one task after another")
    if config.checkpoint.load is not None:
        raise UserError("checkpoint.load: an audit starts from a fresh network; leave it out")
    return Audit(tuple(words), trial_of(config, tuple(command.search_path)))
