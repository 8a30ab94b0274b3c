"""What the server refuses, and the names it takes.

The 403 of a project without permission is what users of the real server report, word for word.
The rules for names are those that the client checks for artifacts and run ids, or that W&B's
documentation gives; that the server repeats them, and with which status, is assumed.
"""

from __future__ import annotations

import json
import re

NAME = re.compile(r"[A-Za-z0-9._-]{1,128}")
VERSION = re.compile(r"v\d+")
METADATA_KEYS = 100  # the client's own limit
METADATA_BYTES = 1 << 20  # assumed: the real server's limit is not documented


class RefusedError(Exception):
    """Answered as a GraphQL error with an HTTP status, as the real server does."""

    def __init__(self, message: str, status: int = 400, code: str = "") -> None:
        super().__init__(message)
        self.message, self.status, self.code = message, status, code


def denied() -> RefusedError:
    return RefusedError("permission denied", 403, "PERMISSION_ERROR")


def check_project(name: str) -> None:
    if not 1 <= len(name) <= 128 or set(name) & set("/\\#?%:\r\n"):
        raise RefusedError(f"invalid project name {name!r}")


def check_run_id(name: str) -> None:
    if not 1 <= len(name) <= 128 or set(name) & set(":;,#?/'\\"):
        raise RefusedError(f"invalid run id {name!r}")


def check_collection(name: str) -> None:
    if not NAME.fullmatch(name):
        raise RefusedError(f"invalid artifact name {name!r}")


def check_alias(alias: str) -> None:
    """Aliases of the form v3 are the server's own (assumed: the client lets them pass)."""
    if not 1 <= len(alias) <= 128 or set(alias) & set("/:"):
        raise RefusedError(f"invalid alias {alias!r}")
    if VERSION.fullmatch(alias):
        raise RefusedError(f"alias {alias!r} is reserved for a version")


def check_metadata(metadata: str | None) -> None:
    """`metadata` is the JSON text."""
    if metadata is None:
        return
    if len(metadata.encode()) > METADATA_BYTES or len(json.loads(metadata) or ()) > METADATA_KEYS:
        raise RefusedError("artifact metadata is too large")
