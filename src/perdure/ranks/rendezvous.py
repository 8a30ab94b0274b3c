"""Broadcast from rank 0 (TCPStore) before there is a process group: the run's time, the
arguments. They are kept in the store through which torchrun's ranks find each other."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from datetime import timedelta
from functools import lru_cache
from itertools import count
from typing import Any

from perdure.errors import PeerLostError
from perdure.ranks import environment

_PATIENCE = timedelta(minutes=30)
"""How long a rank waits for rank 0, which may have to wait for a disk or a download."""

_calls = count()


@lru_cache
def store() -> Any:
    """The rendezvous store; kept as long as the process, since others read from it."""
    from torch._C._distributed_c10d import TCPStore

    has_agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    return TCPStore(
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        environment.world_size(),
        is_master=environment.is_main() and not has_agent,
        timeout=_PATIENCE,
        wait_for_workers=False,
        multi_tenant=True,
    )


def own_store() -> Any:
    """The part of the store that belongs to the ranks since their last restart.

    The store outlives them when torchrun starts them anew, and the keys by which the dead ranks
    found each other would lead the new ones astray.
    """
    from torch._C._distributed_c10d import PrefixStore

    return PrefixStore(f"restart{environment.restart_count()}", store())


def known(key: str) -> Any:
    """What rank 0 has stored under `key`, before or after a restart; None before it has."""
    if environment.world_size() == 1 or not store().check([key]):
        return None
    return json.loads(store().get(key))


def from_main(key: str, make: Callable[[], Any], lasting: bool = False) -> Any:
    """The plain value that rank 0 makes; the others wait for it. One process just makes it.

    All ranks call this in the same order.

    Args:
        key: what it is.
        make: called on rank 0 alone.
        lasting: whether restarted ranks can read it too; then it is stored only once.

    Raises:
        PeerLostError: rank 0 does not store it.
    """
    if environment.world_size() == 1:
        return make()
    if not lasting:
        key = f"{key} {next(_calls)}"
    place = store() if lasting else own_store()
    if environment.is_main():
        value = make()
        place.set(key, json.dumps(value))
        return value
    try:
        with environment.waiting():
            return json.loads(place.get(key))
    except RuntimeError as error:
        raise PeerLostError(str(error).splitlines()[0]) from error
