"""Write docs/tutorial.ipynb from scripts/tutorial.py, executed; or execute it and compare.

python scripts/make_tutorial.py            write the notebook, with its outputs
python scripts/make_tutorial.py --check    execute it, and fail where the file has other cells

The source is a program in cells (`# %%`, and `# %% [markdown]` for text). The notebook is executed
in a folder of its own. It needs the extra `docs` (nbclient, nbformat, ipykernel).
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "scripts" / "tutorial.py"
NOTEBOOK = ROOT / "docs" / "tutorial.ipynb"


def cells_of(program: str) -> list[tuple[str, str]]:
    """The cells of a program, as (`markdown` or `code`, text)."""
    found = []
    for kind, body in re.findall(r"^# %%( \[markdown\])?\n(.*?)(?=^# %%|\Z)", program, re.M | re.S):
        if kind:
            body = re.sub(r"^# ?", "", body, flags=re.M)
        found.append(("markdown" if kind else "code", body.strip()))
    return found


def cells_in(notebook: str) -> list[tuple[str, str]]:
    """The cells of a notebook's JSON, likewise."""
    cells = json.loads(notebook)["cells"]
    return [(cell["cell_type"], "".join(cell["source"])) for cell in cells]


def executed(cells: list[tuple[str, str]]) -> Any:
    """The notebook with its outputs. Raises nbclient's CellExecutionError where a cell fails."""
    import nbformat
    from nbclient import NotebookClient

    made = []
    for i, (kind, text) in enumerate(cells):
        new = nbformat.v4.new_markdown_cell if kind == "markdown" else nbformat.v4.new_code_cell
        made.append(new(text, id=f"cell-{i}"))
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = nbformat.v4.new_notebook(cells=made, metadata={"kernelspec": kernel})
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(
            notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": folder}}
        )
        client.execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # when each cell ran
    return notebook


def main(arguments: list[str]) -> int:
    """Write the notebook, or with `--check` compare it; returns the exit status."""
    cells = cells_of(SOURCE.read_text())
    notebook = executed(cells)
    if arguments == ["--check"]:
        if cells_in(NOTEBOOK.read_text()) != cells:
            print(f"{NOTEBOOK}: not that of {SOURCE}; run python scripts/make_tutorial.py")
            return 1
        print("the tutorial runs, and is that of its source")
        return 0
    import nbformat

    NOTEBOOK.write_text(nbformat.writes(notebook) + "\n")
    print(f"written to {NOTEBOOK}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
