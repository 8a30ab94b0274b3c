"""`perdure summarize`, from a checkout."""

from __future__ import annotations

import sys

from perdure.cli.summarize import main

if __name__ == "__main__":
    sys.exit(main())
