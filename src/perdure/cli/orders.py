"""Class orders at both ends: an easy and a hard one, by the similarity between tasks.

    perdure orders dataset=seq-mnist
    perdure orders dataset=seq-cifar100 dataset.n_tasks=10 --json orders.json

Prints two lists for `dataset.class_order`, and how similar the classes of different tasks are in
them and in 1,000 random orders. Similarity is the cosine of class means of the training images.
The last line is the command that measures a method in both, beside random ones:

    perdure train -m model=er 'dataset.class_order=[…],[…]' seed=0,1,2
    perdure train -m model=er dataset.class_order=random 'order=range(20)'
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING

from perdure.cli.main import explained, worded_exit, words_of
from perdure.config import compose
from perdure.config.overrides import Arguments
from perdure.errors import UserError

if TYPE_CHECKING:
    from perdure.analysis.orders import Extremes


@worded_exit()
def main(arguments: Sequence[str] | None = None) -> int:
    """Search the two orders of the benchmark that `arguments` name, and print them."""
    parser = argparse.ArgumentParser(
        prog="perdure orders",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("words", nargs="*", metavar="KEY=VALUE", help="as of perdure train")
    parser.add_argument("--config-dir", "-cd", metavar="DIR", help="configuration of your own")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write them there")
    options = parser.parse_intermixed_args(arguments)
    words = words_of(options.words, options.config_dir)
    with explained(words):
        found = _search(words)
        print(_report(found, words))
        if options.json is not None:
            options.json.write_text(json.dumps(asdict(found), indent=2) + "\n")
    return 0


def _search(words: Sequence[str]) -> Extremes:
    """The orders of the benchmark of this command.

    Raises:
        UserError: its tasks are not made of classes.
    """
    import torch  # only once the words are known to be well-formed

    from perdure.analysis.orders import extremes
    from perdure.config.typed import typed
    from perdure.run.assemble import choose_device, make_benchmark

    command = Arguments(tuple(words))
    config = typed(compose.compose(*command.search_path, *(o.text for o in command.overrides)))
    benchmark = make_benchmark(config, choose_device("cpu"))
    sizes = [len(benchmark.classes(task)) for task in range(benchmark.n_tasks)]
    if not benchmark.boundaries or sum(sizes) != benchmark.n_classes:
        raise UserError(
            f"dataset={config.dataset.name}: its tasks share classes, so that their order makes "
            "none of them; must be a class-incremental benchmark"
        )
    means = torch.zeros(benchmark.n_classes, benchmark.train(0).x[0].numel(), dtype=torch.float64)
    for task in range(benchmark.n_tasks):
        split = benchmark.train(task)
        for label in split.y.unique().tolist():
            means[label] = split.x[split.y == label].flatten(1).double().mean(0)
    by_class = torch.empty_like(means)  # a label is the place in the order of this configuration
    by_class[torch.tensor(benchmark.class_order)] = means
    return extremes(by_class.numpy(), sizes)


def _report(found: Extremes, words: Sequence[str]) -> str:
    easy, hard = ("[" + ",".join(map(str, order)) + "]" for order in (found.easy, found.hard))
    of_easy, of_hard = (f"{value:.3f}" for value in found.similarity)
    low, high = found.random[0], found.random[-1]
    own = [word for word in words if not word.startswith("dataset.class_order=")]
    return "\n".join(
        [
            f"easy   dataset.class_order={easy}   similarity between tasks {of_easy}",
            f"hard   dataset.class_order={hard}   similarity between tasks {of_hard}",
            f"random orders ({len(found.random)}): {mean(found.random):.3f} ± "
            f"{stdev(found.random):.3f}, from {low:.3f} to {high:.3f}",
            f"perdure train -m {' '.join(own)} 'dataset.class_order={easy},{hard}' seed=0,1,2",
        ]
    )
