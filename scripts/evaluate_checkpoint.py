"""`perdure evaluate`, from a checkout."""

from __future__ import annotations

import sys

from perdure.cli.evaluate import main

if __name__ == "__main__":
    sys.exit(main())
