"""Puts conf/ into the wheel, as perdure/conf; everything else of the build is in pyproject.toml."""

from __future__ import annotations

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithConfiguration(build_py):
    """An editable install copies nothing: it reads conf/ where it lies."""

    def run(self) -> None:
        if self.editable_mode:
            super().run()
            return
        target = Path(self.build_lib)
        if target.is_relative_to(self.get_finalized_command("build").build_base):
            # What an earlier build left there would be in the wheel.
            shutil.rmtree(target, ignore_errors=True)
        super().run()
        shutil.copytree("conf", target / "perdure" / "conf", ignore=_local)


def _local(folder: str, names: list[str]) -> set[str]:
    """conf/local is a person's own, and ignored by git too."""
    return {"local"} & set(names) if folder == "conf" else set()


setup(cmdclass={"build_py": BuildWithConfiguration})
