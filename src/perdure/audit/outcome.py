"""Outcomes of the checks of an audit: passed, failed, does not apply."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from perdure.errors import PerdureError

PASSED, FAILED, SKIPPED = "passed", "FAILED", "does not apply"


class FindingError(AssertionError):
    """What a check found to be otherwise than it must be, in a sentence."""


class InapplicableError(Exception):
    """Why a check says nothing of this method on this benchmark."""


@dataclass(frozen=True)
class Outcome:
    """One row of an audit.

    Attributes:
        check: name of the check.
        status: passed, FAILED, or does not apply.
        detail: what was looked at, or what was found.
    """

    check: str
    status: str
    detail: str


def outcome_of(check: str, run: Callable[[], str]) -> Outcome:
    """Run a check, which returns what it looked at or raises what it found.

    Raises:
        PerdureError: the configuration does not allow the training runs of the check.
    """
    try:
        return Outcome(check, PASSED, run())
    except InapplicableError as reason:
        return Outcome(check, SKIPPED, str(reason))
    except AssertionError as error:
        return Outcome(check, FAILED, str(error))
    except PerdureError:
        raise
    except Exception as error:  # of the method's own code
        return Outcome(check, FAILED, f"{type(error).__name__}: {error}")


def has_failed(outcomes: Iterator[Outcome] | list[Outcome]) -> bool:
    """Whether a check failed."""
    return any(outcome.status == FAILED for outcome in outcomes)
