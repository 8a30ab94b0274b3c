"""`perdure inspect`, from a checkout."""

from __future__ import annotations

import sys

from perdure.cli.inspect import main

if __name__ == "__main__":
    sys.exit(main())
