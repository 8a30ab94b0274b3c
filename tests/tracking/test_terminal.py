from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.tracking.console import Pace
from perdure.tracking.events import TaskStart, Tick
from perdure.tracking.terminal import PlainDisplay, Progress, SafeStream, TerminalDisplay


def test_eta_of_a_resumed_run_counts_only_its_own_steps() -> None:
    pace = Pace(n_tasks=5, global_step=250)
    pace.start_task(TaskStart(2, "", 1000, 100, 100), now=10.0)
    pace.tick(Tick(2, 0, 60, 260), now=11.0)
    assert pace.rate == pytest.approx(10)
    assert pace.seconds_left == pytest.approx((40 + 200) / 10)


def test_the_rate_leaves_out_evaluation() -> None:
    pace = Pace(n_tasks=2, global_step=0)
    pace.start_task(TaskStart(0, "", 1000, 100, 100), now=0.0)
    pace.tick(Tick(0, 0, 100, 100), now=10.0)
    pace.start_task(TaskStart(1, "", 1000, 100, 100), now=60.0)
    pace.tick(Tick(1, 0, 10, 110), now=61.0)
    assert pace.rate == pytest.approx(10)


@given(
    st.integers(0, 150),
    st.floats(0, 1),
    st.lists(st.text("abc ", min_size=1, max_size=15), max_size=4).map(tuple),
)
def test_progress_fits_any_width(width: int, fraction: float, details: tuple[str, ...]) -> None:
    line = Progress("task 1 (2/5)", fraction, details).line(width, "━", "─")
    assert len(line) <= width
    if width >= len("task 1 (2/5)"):
        assert line.startswith("task 1 (2/5)")


@pytest.mark.parametrize("display", [PlainDisplay, TerminalDisplay], ids=["plain", "terminal"])
def test_characters_that_a_stream_cannot_encode_are_replaced(display: Any) -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    (display(stream) if display is TerminalDisplay else display(stream, 0.0)).print_line(
        "rotation 31.5°"
    )
    assert b"rotation 31.5?" in raw.getvalue()


def test_a_lost_reader_does_not_end_the_run() -> None:
    class Lost(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(5, "Input/output error")

    stream = SafeStream(Lost())
    assert stream.write("abc") == 3
    assert stream.is_lost
    assert stream.write("abc") == 3


@pytest.mark.process
def test_a_closed_pipe_does_not_end_the_run(tmp_path: Path) -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[2])\n"
        "from pathlib import Path; from conftest import FakeRun\n"
        "from perdure.tracking import Console\n"
        "sys.stdin.read()\n"
        "FakeRun(Path(sys.argv[1]), n_tasks=9).play(Console())\n"
        "Path(sys.argv[1], 'done').touch()\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path), str(Path(__file__).parent)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stderr is not None
        process.stdout.close()
        process.stdin.close()
        errors = process.stderr.read()
    assert (process.returncode, errors) == (0, b"")
    assert (tmp_path / "done").exists()
