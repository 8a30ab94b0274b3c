"""A hyperparameter out of range is refused in one sentence that names it."""

from __future__ import annotations

import pytest

from perdure.errors import UserError
from perdure.models.options import above, at_least


@pytest.mark.parametrize("value", [-0.5, float("nan"), float("inf"), -float("inf")], ids=str)
def test_the_first_value_out_of_range_is_named(value: float) -> None:
    at_least(0, a=0, b=0.0, c=1e9)
    with pytest.raises(UserError, match=rf"^model\.b={value}: out of range; must be 0 or more$"):
        at_least(0, a=0.0, b=value, c=-1.0)


def test_a_bound_that_is_not_accepted_itself() -> None:
    above(0, temperature=1e-9)
    for value in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(UserError, match=rf"^model\.temperature={value}: .* must be above 0$"):
            above(0, alpha=1, temperature=value)
