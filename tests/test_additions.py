"""A method and a benchmark, added by the files that the README names, turn no test red."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from process import ROOT, environment

pytestmark = pytest.mark.process

README = (ROOT / "README.md").read_text()
CHEAP = ("tests/test_docs.py", "tests/test_layers.py", "tests/config/test_schema.py",
         "tests/config/test_typed.py", "tests/models/test_every_method.py")  # fmt: skip
ABOUT = "options or half or every_option or imports or layer"
IMPORTS = """\
from __future__ import annotations

from perdure.datasets.batch import Batch
from perdure.models.base import Loss, Method


"""


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The tree with both; the method is the README's own example, under another name."""
    for name in ("src", "conf", "tests", "docs", "scripts"):
        shutil.copytree(
            ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "*.gz")
        )
    for path in ROOT.glob("*.*"):
        if path.is_file():
            shutil.copyfile(path, tmp_path / path.name)
    data = "src/perdure/datasets/data"
    shutil.copytree(ROOT / data, tmp_path / data, dirs_exist_ok=True)
    section = README.split("## Add a method")[1]
    (code,) = re.findall(r"```python\n(.*?)```", section, re.S)[:1]
    (config,) = re.findall(r"```yaml\n(.*?)```", section, re.S)[:1]
    code, config = code.replace("class ER(", "class Half("), config.replace("er.ER", "half.Half")
    (tmp_path / "src/perdure/models/half.py").write_text(IMPORTS + code)
    config = config.replace("name: er\n", "name: half\n")
    (tmp_path / "conf/model/half.yaml").write_text(config)
    benchmark = (ROOT / "conf/dataset/seq-mnist.yaml").read_text()
    benchmark = benchmark.replace("name: seq-mnist", "name: half-mnist")
    (tmp_path / "conf/dataset/half-mnist.yaml").write_text(benchmark)
    return tmp_path


@pytest.mark.process
def test_a_method_and_a_benchmark_turn_no_test_red(copy: Path) -> None:
    variables = {**environment(), "PYTHONPATH": os.pathsep.join([str(copy / "src")])}
    variables = {k: v for k, v in variables.items() if not k.startswith("PYTEST")}
    pytest_of_it = (sys.executable, "-m", "pytest", "-q", "-rf", "-p", "no:cacheprovider")
    done = subprocess.run(
        [*pytest_of_it, *CHEAP, "-k", ABOUT], cwd=copy, env=variables, capture_output=True,
        text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-5000:]
    assert int(re.findall(r"(\d+) passed", done.stdout)[-1]) > 100
