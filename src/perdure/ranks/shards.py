"""How a batch is split over the logical shards, and the shards over the ranks."""

from __future__ import annotations

from itertools import pairwise

from perdure.errors import UserError


def bounds(n: int, shards: int) -> list[tuple[int, int]]:
    """(start, stop) of each shard of `n` rows, the larger ones first: 10 over 4 is 3, 3, 2, 2."""
    size, larger = divmod(n, shards)
    starts = [i * size + min(i, larger) for i in range(shards + 1)]
    return list(pairwise(starts))


def of_rank(rank: int, size: int, shards: int) -> range:
    """The shards that `rank` of `size` runs, one after another: neighbors, so that their rows in
    the order of ranks are in the order of shards."""
    each = shards // size
    return range(rank * each, (rank + 1) * each)


def check(shards: int, size: int) -> None:
    """Refuse a number of shards that the ranks cannot share equally.

    Raises:
        UserError: says which world sizes can.
    """
    if shards % size:
        fitting = [str(n) for n in range(1, shards + 1) if shards % n == 0]
        raise UserError(
            f"training.shards={shards} on {size} processes: every process runs equally many "
            f"shards, so start {' or '.join(fitting)} of them (torchrun --nproc-per-node), or "
            f"give a multiple of {size}"
        )


def check_sync_batchnorm(shards: int, size: int) -> None:
    """Refuse statistics of the whole batch where its shards are not all run at once.

    Raises:
        UserError: says how many processes there must be.
    """
    if shards != size:
        raise UserError(
            f"training.sync_batchnorm=true with training.shards={shards} on {size} processes: "
            "statistics of the whole batch need all its shards at once, so there must be as many "
            "processes as shards"
        )
