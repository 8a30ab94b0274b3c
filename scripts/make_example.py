"""Writes docs/example.md: from one sweep to a paper's table, figures and claim, by its commands.

python train.py -m hydra/launcher=local hydra.sweep.dir=outputs/paper \\
    model=er,er-ace,der,derpp buffer.size=200,500 seed=0,1,2,3,4
python scripts/make_example.py

Runs each command of the page on the sweep in outputs/paper and writes down what it prints; the
figures go to docs/pictures/. The numbers of each run are in docs/example.csv, from which
tests/test_docs.py computes the means on the page again.
"""

from __future__ import annotations

import argparse
import csv
import io
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from perdure.analysis.runs import Run, read
from perdure.config.folder import CHECKOUT
from perdure.io.atomic import write_atomically

SWEEP = "outputs/paper"
METRICS = ("average_accuracy.class_il", "average_accuracy.task_il", "forgetting.class_il")
BY = ("model", "buffer.size")
COMMANDS = {
    "train": f"python train.py -m hydra/launcher=local hydra.sweep.dir={SWEEP} "
    "model=er,er-ace,der,derpp buffer.size=200,500 seed=0,1,2,3,4",
    "table": f"perdure summarize {SWEEP} --by {' '.join(BY)} --metric {' '.join(METRICS)}",
    "latex": f"perdure summarize {SWEEP} --by {' '.join(BY)} --metric {' '.join(METRICS[:2])} "
    "--format latex",
    "claim": f"perdure compare model=derpp model=der model=er --in {SWEEP} --metric {METRICS[0]}",
    "t": f"perdure compare model=derpp model=er --in {SWEEP} --metric {METRICS[0]} --test t",
    "accuracy": f"perdure plot accuracy {SWEEP} --columns 2 --format pdf png",
    "pareto": f"perdure plot pareto {SWEEP} --columns 1 --format pdf png",
}
_PICTURES = ("accuracy_class_il", "pareto_bytes_class_il")
_TEXT = """\
# An example: four methods, two buffers, five seeds

Written by `scripts/make_example.py` from the output of the commands on this page. The sweep is 40
runs of seq-mnist; on two cores, which did other work too, it took {minutes} minutes:

```bash
{train}
```

While it runs, `{sweep}/` has `summary.md`, `summary.tex`, `summary.csv`, `report.html` and
`figures/`. ER, DER and DER++ take the published hyperparameters of the buffer size, ER-ACE, which
has none for this benchmark, the defaults: such things are said when a run starts, and below.

## The table

```bash
{table}
```

{table_output}

The same for LaTeX:

```bash
{latex}
```

```latex
{latex_output}
```

## Does A beat B?

```bash
{claim}
```

{claim_output}

An exact sign-flip test of five pairs cannot go below p = .0625, whatever the difference: this is
why the sentences ask for more seeds. A paired t-test takes the differences to be normal, and can
decide:

```bash
{t}
```

{t_output}

## Figures

```bash
{accuracy}
{pareto}
```

Bands are ± one standard deviation over seeds. Each figure is a PDF with its fonts embedded, a PNG,
and a CSV of its numbers.

![Average accuracy over tasks](pictures/example-accuracy_class_il.png)

![Accuracy against the bytes that are kept](pictures/example-pareto_bytes_class_il.png)
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the commands and write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", required=True, help="that the sweep took")
    options = parser.parse_args(arguments)
    root = CHECKOUT or Path()
    runs = read([root / SWEEP])
    write_atomically(root / "docs" / "example.csv", sheet(runs).encode())
    output = {
        f"{name}_output": _output(root, line) for name, line in COMMANDS.items() if name != "train"
    }
    for name in _PICTURES:
        picture = (root / SWEEP / "figures" / f"{name}.png").read_bytes()
        write_atomically(root / "docs" / "pictures" / f"example-{name}.png", picture)
    text = _TEXT.format(sweep=SWEEP, minutes=options.minutes, **COMMANDS, **output)
    write_atomically(root / "docs" / "example.md", text.encode())
    return 0


def sheet(runs: Sequence[Run]) -> str:
    """The metrics of each run as CSV."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*BY, "seed", *METRICS])
    for run in runs:
        settings = [run.setting(key) for key in (*BY, "seed")]
        writer.writerow([*settings, *(repr(run.metrics[metric]) for metric in METRICS)])
    return text.getvalue()


def _output(root: Path, line: str) -> str:
    """What a command prints; sentences on paragraphs of their own."""
    words = [sys.executable, "-m", *shlex.split(line)]
    done = subprocess.run(words, cwd=root, capture_output=True, text=True, check=True)
    return re.sub(r"(?m)^([^|\n\\%].*\.)\n(?=[^|\n])", r"\1\n\n", done.stdout.strip())


if __name__ == "__main__":
    sys.exit(main())
