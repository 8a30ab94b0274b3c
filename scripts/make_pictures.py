"""Write docs/pictures/report.png: the report of a real run, as headless Chromium shows it.

python scripts/make_pictures.py

Trains the main job in a temporary folder. Without Chromium it says so, and writes nothing.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

PICTURE = Path(__file__).parents[1] / "docs" / "pictures" / "report.png"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome-headless-shell")
WIDTH, HEIGHT = 1100, 1060
"""In pixels: down to the end of the curves."""
LARGEST = 200_000
"""Bytes."""


def browser() -> str | None:
    """The path of a Chromium; None where there is none."""
    return next((path for name in BROWSERS if (path := shutil.which(name))), None)


def screenshot(program: str, page: Path, picture: Path) -> None:
    """What `program` shows of a page. Raises CalledProcessError where it fails."""
    size = f"--window-size={WIDTH},{HEIGHT}"
    # A container has no user namespaces for the sandbox; the page is our own.
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", size]
    command = [program, *flags, f"--screenshot={picture}", page.as_uri()]
    subprocess.run(command, check=True, capture_output=True, timeout=120)


def main() -> int:
    """Train, look, write; returns the exit status."""
    program = browser()
    if program is None:
        print(f"no Chromium here (looked for {', '.join(BROWSERS)}); no picture was written")
        return 1
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder, "run")
        words = ["model=er", "dataset=seq-mnist", "checkpoint.save=true", f"hydra.run.dir={run}"]
        subprocess.run([sys.executable, "-m", "perdure", "train", *words], check=True)
        taken = Path(folder, "report.png")
        screenshot(program, run / "report.html", taken)
        size = taken.stat().st_size
        if size > LARGEST:
            print(f"the picture has {size:,} bytes, more than {LARGEST:,}; it was not written")
            return 1
        PICTURE.parent.mkdir(exist_ok=True)
        shutil.copyfile(taken, PICTURE)
    print(f"written to {PICTURE} ({size:,} bytes)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
