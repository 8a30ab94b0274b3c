"""From a config group to its object: what is passed, and what is refused in one sentence."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import pytest
import torch

from perdure.config.build import build, check, locate
from perdure.errors import UserError


class Network:
    """Stands for what a config group builds: one object given, one value known at run time."""

    def __init__(
        self,
        given: object,
        n_classes: int,
        rate: float,
        width: int = 10,
        flip: bool = True,
        mode: Literal["a", "b"] = "a",
        sizes: Sequence[int] = (1,),
        betas: tuple[float, float] = (0.9, 0.999),
        name: str | None = None,
        decay: float | torch.Tensor = 0.0,
        extra: Any = None,
        table: Mapping[str, int] | None = None,
    ) -> None:
        self.__dict__.update({k: v for k, v in locals().items() if k != "self"})


def open_ended(given: object, **anything: Any) -> dict[str, Any]:
    return anything


def passing_on(*given: object, **options: Any) -> Network:
    return Network(*given, **options)


TARGET = f"{__name__}.Network"


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """`_target_` finds this file's classes, whatever name pytest gave the module."""
    found = {kind.__name__: kind for kind in (Network, open_ended, passing_on)}
    named = {f"{__name__}.{name}": kind for name, kind in found.items()}
    monkeypatch.setattr("perdure.config.build.locate", lambda path, group: named[path])


def network(**options: Any) -> Network:
    made: Network = build(
        {"_target_": TARGET, "rate": 0.1, **options}, "backbone", "given", n_classes=7, unused=1
    )
    return made


def test_options_arguments_and_what_the_program_knows_come_together() -> None:
    made = vars(network(width=3, mode="b"))
    assert made["given"] == "given"
    assert made["n_classes"] == 7
    assert (made["rate"], made["width"], made["mode"], made["flip"]) == (0.1, 3, "b", True)


def test_what_takes_anything_is_given_it() -> None:
    node = {"_target_": f"{__name__}.open_ended", "this": 1, "that": "x"}
    assert build(node, "backbone", None) == {"this": 1, "that": "x"}


def test_what_passes_its_options_on_is_given_what_the_program_knows_too() -> None:
    node = {"_target_": f"{__name__}.passing_on", "rate": 0.5}
    made = vars(build(node, "backbone", "given", n_classes=7))
    assert (made["given"], made["n_classes"], made["rate"]) == ("given", 7, 0.5)


def test_an_option_that_is_passed_on_and_unknown_there_ends_in_a_sentence() -> None:
    node = {"_target_": f"{__name__}.passing_on", "rate": 0.5, "depth": 3}
    with pytest.raises(UserError, match=r"^backbone\._target_=.*unexpected keyword argument 'dept"):
        build(node, "backbone", "given", n_classes=7)


def test_the_options_that_it_names_itself_keep_their_types() -> None:
    def half(given: object, width: int, **rest: Any) -> None: ...

    check(half, {"width": 3, "other": "x"}, "backbone")
    with pytest.raises(UserError, match=r"^backbone\.width=x: must be an integer$"):
        check(half, {"width": "x"}, "backbone")
    with pytest.raises(UserError, match=r"^backbone\.width is missing: backbone takes width$"):
        check(half, {"other": 1}, "backbone")


@pytest.mark.parametrize(
    "options",
    [
        {"rate": 1},
        {"width": 3},
        {"flip": False},
        {"sizes": []},
        {"sizes": [1, 2]},
        {"sizes": (1, 2)},
        {"betas": [0.5, 1]},
        {"name": None},
        {"name": "x"},
        {"decay": 1},
        {"extra": "anything"},
        {"extra": [1, "x", None]},
        {"table": {"x": 1}},
        {"mode": "b"},
    ],
    ids=str,
)
def test_values_of_the_annotated_type_are_taken(options: dict[str, Any]) -> None:
    assert vars(network(**options)).items() >= options.items()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"rate": "fast"}, "backbone.rate=fast: must be a float"),
        ({"rate": True}, "backbone.rate=True: must be a float"),
        ({"rate": None}, "backbone.rate=None: must be a float"),
        ({"width": 3.5}, "backbone.width=3.5: must be an integer"),
        ({"width": False}, "backbone.width=False: must be an integer"),
        ({"width": [3]}, "backbone.width=[3]: must be an integer"),
        ({"flip": 1}, "backbone.flip=1: must be true or false"),
        ({"flip": "yes"}, "backbone.flip=yes: must be true or false"),
        ({"mode": "c"}, "backbone.mode=c: must be a or b"),
        ({"sizes": 5}, "backbone.sizes=5: must be a list (each an integer)"),
        ({"sizes": "5"}, "backbone.sizes=5: must be a list (each an integer)"),
        ({"sizes": [1, "x"]}, "backbone.sizes=[1, 'x']: must be a list (each an integer)"),
        ({"betas": [0.9]}, "backbone.betas=[0.9]: must be a list of 2"),
        ({"betas": [0.9, "x"]}, "backbone.betas=[0.9, 'x']: must be a list of 2"),
        ({"name": 3}, "backbone.name=3: must be text or null"),
        ({"decay": "much"}, "backbone.decay=much: must be a float"),
    ],
    ids=str,
)
def test_other_types_are_refused_in_plain_words(options: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError) as caught:
        network(**options)
    assert str(caught.value) == says


TAKES = "backbone takes rate, width, flip, mode, sizes, betas, name, decay, extra, table"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"depth": 3}, f"backbone.depth=3: {TAKES}"),
        ({"n_classes": 3}, f"backbone.n_classes=3: {TAKES}"),
        ({"given": 3}, f"backbone.given=3: {TAKES}"),
    ],
    ids=["unknown", "known at run time", "given"],
)
def test_keys_that_are_not_the_user_s_are_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError) as caught:
        network(**options)
    assert str(caught.value) == says


def test_what_is_missing_is_named() -> None:
    with pytest.raises(UserError, match=rf"^backbone\.rate is missing: {TAKES}$"):
        build({"_target_": TARGET}, "backbone", "given", n_classes=7)


def test_a_class_without_options_says_so() -> None:
    def bare(given: object) -> None: ...

    with pytest.raises(UserError, match=r"^model\.alpha=1: model takes no options$"):
        check(bare, {"alpha": 1}, "model")


def test_annotations_that_cannot_be_read_refuse_nothing() -> None:
    def odd(given: object, size: Unknown, items: Iterable[int] = ()) -> None: ...  # type: ignore[name-defined]  # noqa: F821

    check(odd, {"size": "anything", "items": [5]}, "model")
    with pytest.raises(UserError, match=r"^model\.items=5: must be a list \(each an integer\)$"):
        check(odd, {"size": "anything", "items": 5}, "model")


def test_torch_s_schedulers_are_checked_although_their_annotations_are_for_type_checkers() -> None:
    check(torch.optim.lr_scheduler.MultiStepLR, {"milestones": [3, 5]}, "scheduler")
    with pytest.raises(UserError, match=r"^scheduler\.milestones=3: must be a list \(each an int"):
        check(torch.optim.lr_scheduler.MultiStepLR, {"milestones": 3}, "scheduler")


def test_torch_s_optimizers_are_checked_like_ours() -> None:
    check(torch.optim.Adam, {"lr": 0.1, "betas": [0.9, 0.99], "weight_decay": 0}, "optimizer")
    with pytest.raises(UserError, match=r"^optimizer\.momentum=1: optimizer takes lr, betas, "):
        check(torch.optim.Adam, {"momentum": 1}, "optimizer")
    with pytest.raises(UserError, match=r"^optimizer\.lr=abc: must be a float$"):
        check(torch.optim.Adam, {"lr": "abc"}, "optimizer")


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("perdure.models.er.Er", r"model\._target_=perdure\.models\.er\.Er: cannot be imported"),
        ("perdure.model.er.ER", r"cannot be imported \(No module named 'perdure\.model'\)"),
        ("ER", r"model\._target_=ER: cannot be imported"),
        ("", r"model\._target_=: cannot be imported"),
        ("perdure.models.er", r"perdure\.models\.er: must be a class or a function"),
    ],
    ids=["class", "module", "bare", "empty", "not a class"],
)
def test_a_target_that_is_not_there_is_named(path: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        locate(path, "model")


def test_a_target_is_found_by_its_import_path() -> None:
    assert locate("torch.optim.SGD", "optimizer") is torch.optim.SGD
