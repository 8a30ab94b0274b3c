"""Compare the ends of two runs bit by bit: weights, optimizer, buffer, results and metrics.

python scripts/compare_ends.py RUN OTHER

Both need `checkpoint.save=true`. Exit status 1, and what differs, where anything but clocks does.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from crash_test import compare


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("other", type=Path)
    options = parser.parse_args()
    found = compare(options.run, options.other)
    for where in found[:10]:
        print(where)
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
