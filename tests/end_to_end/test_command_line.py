"""Help, look-ups, and a user's mistakes: one sentence, status 2, nothing left behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from process import ROOT, environment, refused_in, train_in

MISTAKES = [
    (["modle=er"], "modle: there is no such key (did you mean model?)"),
    (["model=derp"], "model=derp: there is no such model (did you mean derpp?)"),
    (["buffer.sise=3"], "buffer.sise: there is no such key (did you mean buffer.size?)"),
    (["+buffer.sise=3"], "buffer.sise=3: buffer takes size, batch_size"),
    (
        ["dataset=base"],
        "dataset=base: is what all benchmarks share and none itself; choose mnist-",
    ),
    (
        ["dataset=mnist"],
        "choose mnist-360, perm-mnist, rot-mnist, seq-cifar10",
    ),
    (["dataset.source=mnist"], "dataset.source=mnist: must name a class"),
    (["seed=abc"], "seed: Value 'abc' of type 'str' could not be converted to Integer"),
    (["dataset.epochs=1.5"], "dataset.epochs=1.5: must be an integer, 1 or more, a list"),
    (["training.precision=fp8"], "expected one of [fp32, bf16, fp16]"),
    (["optimizer.lr=abc"], "optimizer.lr=abc: must be a float"),
    (["optimizer.lr=-1"], "optimizer.lr=-1: must be 0 or more"),
    (["optimizer=adam", "optimizer.lr=-1"], "optimizer: Invalid learning rate: -1"),
    (["scheduler=multistep", "scheduler.milestones=3"], "scheduler"),
    (["buffer=none"], "model=er with buffer=none"),
    (["model=er-ace", "training=joint"], "model=er-ace with training=joint"),
    (["model=er-ace", "dataset=perm-mnist"], "class-incremental"),
    (["buffer.size=-3"], "buffer.size=-3: must be an integer, 1 or more"),
    (["device=cuda:77"], "device=cuda:77: not usable here"),
    (["checkpoint.every=tsk"], "checkpoint.every=tsk: must be task, epoch"),
    (["dataset.class_order=[1,2]"], "names each class 0…9 once"),
    (["dataset.n_tasks=11"], "there are 10 classes"),
    (["tracking.wandb.project=cl"], "tracking.wandb.project=cl: there is no such key without"),
    (["-m", "tracking.wandb.mode=offline"], "there is no such key without tracking=wandb"),
    (["a==b"], "a==b: cannot be read as an override"),
    (["output_root=/a (1)"], "cannot be read as an override; write 'output_root=\"/a (1)\"'"),
    (
        ["--lr", "0.1"],
        "--lr 0.1: there is no such flag; settings are key=value: write optimizer.lr",
    ),
    (["model=null"], "model=null: must be acil, agem, agem-r, "),
    (["-m", "seed=0,1", "dataset=null"], "dataset=null: must be mnist-360, perm-mnist, "),
    (["lr=0.1"], "lr: there is no such key (did you mean optimizer.lr?)"),
    (
        ["experiment=dark-experience/seq-mnist/er-50"],
        "no such published setting (did you mean",
    ),
    (["experiment=dark-experience/seq-mnist/er-500", "model=sgd"], "model=sgd with experiment="),
    (["experiment=dark-experience/seq-mnist/er-500", "buffer.size=200"], "seq-mnist/er-200"),
    (["recipe=dark-experience", "optimizer=adam"], "recipe=dark-experience: does not apply: "),
    (["output_root=/proc/none"], "output_root=/proc/none: cannot write there"),
    (["hydra.run.dir=/proc/none"], "/proc/none: cannot write there"),
    (["model._target_=perdure.models.er.Er"], "cannot be imported"),
]


@pytest.mark.parametrize(
    ("overrides", "sentence"), MISTAKES, ids=[" ".join(m[0]) for m in MISTAKES]
)
def test_a_mistake_ends_in_one_sentence(
    tmp_path: Path, overrides: list[str], sentence: str
) -> None:
    done = refused_in(tmp_path, *overrides)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert done.stderr.startswith("perdure: ")
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""
    assert not list(tmp_path.glob("outputs/*"))


NO_SERVER = "+dataset.source.mirrors=[http://127.0.0.1:9/]"


def test_missing_data_without_a_network(tmp_path: Path) -> None:
    done = train_in(tmp_path, "dataset=seq-cifar10", NO_SERVER, "data.root=nowhere")
    assert done.returncode == 2
    assert "CIFAR-10 is not in data.root=nowhere" in done.stderr
    assert "perdure prepare-data dataset=seq-cifar10" in done.stderr
    assert done.stderr.count("Traceback") == 0
    assert not list(tmp_path.glob("outputs/*"))


def test_damaged_data(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "FashionMNIST" / "raw"
    folder.mkdir(parents=True)
    for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (folder / f"{name}-ubyte.gz").write_bytes(b"\x1f\x8bno gzip at all")
    done = train_in(tmp_path, "dataset=seq-fmnist", NO_SERVER)
    assert done.returncode == 2
    assert "-ubyte.gz" in done.stderr
    assert done.stderr.count("Traceback") == 0
    assert len(list(folder.iterdir())) == 4


def test_help_shows_groups_and_common_settings(tmp_path: Path) -> None:
    done = train_in(tmp_path, "--help")
    assert done.returncode == 0
    shown = " ".join(done.stdout.split())
    for group in ("model", "dataset", "source", "buffer"):
        options = sorted(path.stem for path in (ROOT / "conf" / group).glob("*.yaml"))
        names = [name for name in options if name != "base"]
        assert f"{group}: {', '.join(names)}" in shown
    for line in (
        "buffer.size=200",
        "python train.py -m model=sgd,er,derpp seed=0,1,2",
    ):
        assert line in done.stdout


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        pytest.param(["--cfg", "job"], "perdure.buffers.reservoir.Reservoir", id="cfg"),
        pytest.param(["--cfg", "job", "--resolve"], "lr: 0.1", id="resolve"),
        pytest.param(["--info", "defaults"], "seq-mnist", id="info"),
        pytest.param(["--shell-completion", "install=bash"], "hydra_bash_completion", id="shell"),
    ],
)
def test_look_ups_work_and_make_no_folder(
    tmp_path: Path, arguments: list[str], expected: str
) -> None:
    done = train_in(tmp_path, *arguments)
    assert done.returncode == 0
    assert expected in done.stdout
    assert not (tmp_path / "outputs").exists()


def test_the_command_line_is_light() -> None:
    """Help, completion and mistakes are answered without importing torch."""
    heavy = ("torch", "matplotlib", "numpy")
    code = f"import sys, perdure.cli.main; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


def test_a_short_run_imports_nothing_it_does_not_need(tmp_path: Path) -> None:
    """torch._dynamo and sympy would cost more than a second of a six-second run.

    So would torchmetrics, which brings matplotlib, and SciPy where it is installed.
    """
    never = ("torch._dynamo", "sympy", "wandb", "optuna", "torchmetrics", "scipy", "matplotlib")
    code = (
        "import sys, perdure; perdure.train('dataset.iterations=5', 'dataset.stop_after=1'); "
        f"print([m for m in {never} if m in sys.modules]); "
        "perdure.train('dataset.iterations=5', folder=sys.argv[1]); "
        f"print([m for m in {never} if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        env=environment(), capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert [line for line in done.stdout.splitlines() if line.startswith("[")] == ["[]", "[]"]


def test_prepare_data_has_nothing_to_fetch_for_mnist() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "prepare_data.py"), "dataset=perm-mnist"],
        env=environment(), capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == "perm-mnist: data are ready inside the package\n"


def test_prepare_data_words_its_errors(tmp_path: Path) -> None:
    done = subprocess.run(
        [
            sys.executable, str(ROOT / "scripts" / "prepare_data.py"), "dataset=seq-cifar10",
            f"data.root={tmp_path}", "+dataset.source.mirrors=[http://127.0.0.1:9/]",
        ],
        env=environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.count("Traceback") == 0


def test_null_chooses_what_is_chosen_anyway(tmp_path: Path) -> None:
    tiny = ("model=sgd", "dataset.iterations=2", "dataset.stop_after=1", "tracking.console=off")
    assert train_in(tmp_path, "experiment=null", "search=null", *tiny).returncode == 0


@pytest.mark.parametrize(
    ("words", "made"),
    [
        (['output_root="~/runs"'], "runs/*/results.json"),
        (['hydra.run.dir="~/here"'], "here/results.json"),
        (["-m", 'output_root="~/runs"', "seed=0"], "runs/*/0/results.json"),
        (["-m", 'hydra.sweep.dir="~/s"', "hydra/launcher=local", "seed=0"], "s/0/results.json"),
    ],
    ids=["root", "run", "sweep", "local-sweep"],
)
def test_a_tilde_is_the_home_folder(tmp_path: Path, words: list[str], made: str) -> None:
    home, here = tmp_path / "home", tmp_path / "here"
    home.mkdir()
    here.mkdir()
    tiny = ("model=sgd", "dataset.iterations=2", "dataset.stop_after=1", "tracking.console=off")
    assert train_in(here, *words, *tiny, env={"HOME": str(home)}).returncode == 0
    assert len(list(home.glob(made))) == 1
    assert not list(here.iterdir())
