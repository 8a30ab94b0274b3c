"""`python -m perdure COMMAND`, the same as `perdure COMMAND`."""

from __future__ import annotations

import sys

from perdure.cli.commands import main

if __name__ == "__main__":
    sys.exit(main())
