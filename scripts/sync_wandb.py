"""`perdure sync-wandb`, from a checkout."""

from __future__ import annotations

import sys

from perdure.cli.sync_wandb import main

if __name__ == "__main__":
    sys.exit(main())
