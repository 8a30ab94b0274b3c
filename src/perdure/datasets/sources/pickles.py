"""Safe unpickling of CIFAR's Python-2 pickles: arrays and plain values, no code is run."""

from __future__ import annotations

import io
import pickle
from typing import Any

import numpy as np

from perdure.datasets.files import DamagedError

# All that an ndarray in a pickle needs, under the names that numpy had when CIFAR was packed.
_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): np.zeros(0).__reduce__()[0],
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}


def load_plain_pickle(data: bytes, path: object) -> dict[str, Any]:
    """A dict of arrays, lists, strings and numbers; DamagedError for a pickle of anything else."""
    try:
        batch = _PlainUnpickler(io.BytesIO(data), encoding="latin1").load()
    except (pickle.UnpicklingError, EOFError) as error:
        raise DamagedError(path, f"it is not a pickle of plain arrays: {error}") from error
    if not isinstance(batch, dict):
        raise DamagedError(path, f"it holds a {type(batch).__name__}, not a dictionary")
    return batch


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return _ALLOWED[module, name]
