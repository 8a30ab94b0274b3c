"""Weights of other files, named on the command line, into a fresh run."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from process import forked_in, run_folder

from perdure.backbones.mlp import MLP
from perdure.checkpoint.core.format import read

FIXED = ("optimizer.lr=0.0", "dataset.iterations=1", "dataset.stop_after=1", "checkpoint.save=true")


@pytest.fixture
def network() -> MLP:
    torch.manual_seed(5)
    return MLP((1, 28, 28), 10)


def mammoth(network: MLP, rows: int = 30) -> dict:
    """What Mammoth's safe mode writes for DER with a partly filled buffer."""
    hidden = [m for m in network.modules() if isinstance(m, torch.nn.Linear)]
    layers = [*(m for m in hidden if m is not network.head), network.head]
    names = ("net.fc1", "net.fc2", "net.classifier")
    model = {
        f"net.{name.removeprefix('net.')}.{part}": getattr(layer, part).detach()
        for name, layer in zip(names, layers, strict=True)
        for part in ("weight", "bias")
    }
    images = torch.randint(0, 256, (rows, 1, 28, 28)).float() / 255
    images[20:] = 0
    return {
        "model": model,
        "optimizer": {"state": {}, "param_groups": []},
        "scheduler": None,
        "args": {"model": "der", "dataset": "seq-mnist", "buffer_size": rows},
        "results": [[["88.1"]], [["99.1"]], {}],
        "buffer": {
            "examples": images,
            "labels": torch.randint(0, 10, (rows,)),
            "logits": torch.randn(rows, 10),
        },
    }


def end(root: Path) -> dict:
    (path,) = (run_folder(root) / "checkpoints").glob("*_0.pt")
    return read(path)


def test_a_mammoth_checkpoint_with_its_buffer(tmp_path: Path, network: MLP) -> None:
    torch.save(mammoth(network), tmp_path / "mammoth.pt")
    done = forked_in(
        tmp_path, "model=der", "buffer.size=30", "checkpoint.load=mammoth.pt",
        "checkpoint.take_buffer=true", *FIXED,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "took 20 rows" in done.stdout
    state = end(tmp_path)
    for name, value in network.state_dict().items():
        assert torch.equal(state["model"][f"backbone.{name}"], value)
    assert state["buffer"]["seen"] == 30
    assert set(state["buffer"]["fields"]) == {"raw", "y", "logits"}


def test_what_was_filled_is_in_the_log_whatever_the_console_shows(tmp_path: Path) -> None:
    """And what was not; a file of two networks has both."""
    two = Path(__file__).parents[1] / "fixtures" / "foreign" / "catalyst-20.12_two.pth"
    done = forked_in(
        tmp_path, "model=sgd", "tracking.console=off", f"checkpoint.load={two}",
        "checkpoint.map={enc: backbone}", *FIXED,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    log = (run_folder(tmp_path) / "train.log").read_text()
    assert "catalyst-20.12_two.pth (catalyst): filled 6 of the network's 6 tensors" in log
    assert "left out (not in checkpoint.map): head" in log
    stored = torch.load(two, weights_only=True)["model_enc_state_dict"]
    assert torch.equal(end(tmp_path)["model"]["backbone.head.weight"], stored["fc3.weight"])


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.module.", "backbone."])
def test_a_plain_state_dict_with_any_prefix(tmp_path: Path, network: MLP, prefix: str) -> None:
    torch.save({prefix + k: v for k, v in network.state_dict().items()}, tmp_path / "plain.pt")
    done = forked_in(tmp_path, "model=sgd", "checkpoint.load=plain.pt", *FIXED)
    assert done.returncode == 0, done.stderr
    for name, value in network.state_dict().items():
        assert torch.equal(end(tmp_path)["model"][f"backbone.{name}"], value)


@pytest.mark.parametrize(
    ("content", "options", "sentence"),
    [
        pytest.param({"other": torch.zeros(3)}, [], "other", id="nothing-fits"),
        pytest.param(
            MLP((1, 28, 28), 7).state_dict(), [], "checkpoint.new_head", id="other-classes"
        ),
    ],
)
def test_what_does_not_fit_is_reported(
    tmp_path: Path, content: dict, options: list[str], sentence: str
) -> None:
    torch.save(content, tmp_path / "file.pt")
    done = forked_in(tmp_path, "model=sgd", "checkpoint.load=file.pt", *options, *FIXED)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.glob("outputs/*"))


def test_another_number_of_classes_on_request(tmp_path: Path) -> None:
    torch.manual_seed(1)
    seven = MLP((1, 28, 28), 7)
    torch.save(seven.state_dict(), tmp_path / "seven.pt")
    done = forked_in(
        tmp_path, "model=sgd", "checkpoint.load=seven.pt", "checkpoint.new_head=true", *FIXED
    )
    assert done.returncode == 0, done.stderr
    name = next(k for k in seven.state_dict() if not k.startswith("head"))
    assert torch.equal(end(tmp_path)["model"][f"backbone.{name}"], seven.state_dict()[name])
    assert "head" in done.stdout


def test_a_remote_full_file_resumes_as_a_fork(tmp_path: Path) -> None:
    """Fetched into the cache, which stays a cache: the run has a folder of its own."""
    import functools
    import http.server
    import threading

    there, here = tmp_path / "there", tmp_path / "here"
    there.mkdir()
    here.mkdir()
    setting = ("model=er", "dataset.iterations=10", "checkpoint.save=true", "buffer.size=30")
    assert forked_in(there, *setting, "dataset.stop_after=3").returncode == 0
    folder = run_folder(there) / "checkpoints"
    (path,) = folder.glob("*_1.pt")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/{path.name}"
        done = forked_in(
            here,
            f"checkpoint.load='{address}'",
            "checkpoint.save=true",
            env={"PERDURE_CACHE": str(here / "c")},
        )
        server.shutdown()
    assert done.returncode == 0, done.stderr
    assert "a fork of" in done.stdout
    (last,) = (run_folder(here) / "checkpoints").glob("*_2.pt")
    (expected,) = folder.glob("*_2.pt")
    for name, value in read(expected)["model"].items():
        assert torch.equal(read(last)["model"][name], value)
    assert {p.suffix for p in (here / "c").rglob("*") if p.is_file()} <= {
        ".pt",
        ".json",
        ".version",
    }


def test_a_sweep_that_starts_from_weights_resumes(tmp_path: Path, network: MLP) -> None:
    """Its jobs that have no checkpoint yet start from the weights, as they would have."""
    torch.save(network.state_dict(), tmp_path / "weights.pt")
    sweep = ("-m", "model=sgd", "seed=0,1", "checkpoint.load=weights.pt", "hydra.sweep.dir=sweep")
    assert forked_in(tmp_path, *sweep, *FIXED).returncode == 0
    (tmp_path / "sweep" / "0" / "results.json").unlink()
    shutil.rmtree(tmp_path / "sweep" / "1")
    done = forked_in(tmp_path, *sweep, *FIXED, "checkpoint.resume=auto")
    assert done.returncode == 0, done.stderr
    jobs = done.stdout.partition("job 1 started")
    assert "resumed from" in jobs[0]
    assert "filled" not in jobs[0]
    assert "filled 6 of the network's 6 tensors" in jobs[2]


def test_a_state_is_not_loaded_where_another_may_be(tmp_path: Path) -> None:
    assert forked_in(tmp_path, "model=sgd", "hydra.run.dir=run", *FIXED).returncode == 0
    done = forked_in(tmp_path, "checkpoint.load=run", "checkpoint.resume=auto")
    assert done.returncode == 2
    assert "checkpoint.load with checkpoint.resume: " in done.stderr
    assert done.stderr.count("\n") == 1
