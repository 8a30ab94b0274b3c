"""Secrets in addresses (tokens, passwords, signatures in a URL): redacted wherever one is stored.

What Hydra sees, and so what a run stores, shows and sends, holds `***` in place of user names and
passwords, query values and fragments. The whole addresses stay in the memory of the process, which
restores one where it opens it.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from itertools import count
from typing import Any, NoReturn
from urllib.parse import unquote

from omegaconf import DictConfig, ListConfig, read_write

from perdure.errors import UserError

VARIABLE = "PERDURE_ADDRESSES"
"""The environment variable in which a process that is started gets the whole addresses."""

HARMLESS = {
    "alt", "branch", "charset", "check_same_thread", "commit", "dl", "download", "export", "format",
    "generation", "raw", "ref", "response-content-disposition", "response-content-type", "rev",
    "revision", "sslmode", "tag", "timeout", "version", "versionid",
}  # fmt: skip
"""Names of query parameters whose values are shown."""

_STARS = "***"
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]{0,30})\\?://")
_REDACTED = re.compile(r"\*{3}\d*")
_HOLDS_REDACTED = re.compile(r"//\*{3}\d*@|[=?&;#]\*{3}\d*(?:[/&;#]|$)")
_PIN = re.compile(r"sha256=[^&;=]*")
_LIKELY = re.compile(r"//[^/?#\s]*@|[/?&;#][\w.%-]+=")
_TEMPLATE = re.compile(r"\{\w*\}|\$\{(?:[^{}]|\$\{[^{}]*\})*\}")
_IN_PATH = re.compile(
    r"(?i)([\w.-]*(?:token|sig|signature|secret|passw|pwd|key|auth|credential|jwt|session|sas)"
    r"[\w.-]*=)([^/;]+)"
)
_PARAMETER = re.compile(r"(;[\w.-]+=)([^/;]+)")
_NAMES = {
    "abfs", "abfss", "az", "git", "mariadb", "mysql", "postgres", "postgresql", "ssh", "wasb",
    "wasbs",
}  # fmt: skip
"""Schemes, up to a +, in which a word without a password before the @ is a name, no token."""
_TOKEN = re.compile(rf"""(?P<quote>['"])|{_SCHEME.pattern}""")
_BRACKETS = (("(", ")"), ("[", "]"), ("{", "}"))
_IN_GRAMMAR = ("hydra.overrides.", "hydra.sweeper.")
"""Where a configuration holds overrides as they are typed."""
_ESCAPED = re.compile(r"\\([\\()\[\]{}:=, \t])")


def redacted(text: str, stars: str = _STARS) -> str:
    """`text` with the secrets of its address replaced; the address runs to the end of the text.

    Without an address, or with one that holds no secret, it is the same text. A value that names a
    secret without holding it, `${oc.env:TOKEN}` or `{token}` in code, stays.
    """
    scheme = _SCHEME.search(text)
    if scheme is None:
        return text
    rest = text[scheme.end() :]
    user, rest = _split_user(rest)
    if ":" in user or not (user == "git" or scheme[1].lower().partition("+")[0] in _NAMES):
        user = _starred(user, stars)
    rest, hash_, fragment = rest.partition("#")
    path, mark, query = rest.partition("?")
    host, slash, path = path.partition("/")
    if not _PIN.fullmatch(fragment):
        fragment = _values(fragment, stars)
    place = text[: scheme.end()] + user + ("@" if user else "") + host + slash
    return place + _path(path, stars) + mark + _values(query, stars) + hash_ + fragment


def redacted_words(text: str) -> str:
    """Code or a patch with the secrets of the addresses in it replaced.

    Less strict than `redacted`: a bare word after `?` is left, since it is a regular expression's.
    """

    def change(address: str, _: str) -> str:
        return redacted(address) if _LIKELY.search(address) else address

    return re.sub(r"\S+", lambda word: _each(word[0], change), text)


def _split_user(rest: str) -> tuple[str, str]:
    """What is before the host and its @, and what follows; nothing where there is no such part."""
    authority = re.split(r"[/?#\s]", rest, maxsplit=1)[0]
    if "@" in authority:
        user, _, host = authority.rpartition("@")
        return user, host + rest[len(authority) :]
    port = "" if authority.startswith("[") else authority.partition(":")[2]
    if port and not port.isdecimal() and "@" in rest:  # a password with / or ? in it
        user, _, rest = rest.rpartition("@")
        return user, rest
    return "", rest


def _path(path: str, stars: str) -> str:
    nested = _SCHEME.search(path)
    if nested is not None:
        return path[: nested.start()] + redacted(path[nested.start() :], stars)
    for pattern in (_IN_PATH, _PARAMETER):
        path = pattern.sub(lambda found: found[1] + _starred(found[2], stars), path)
    return path


def _values(query: str, stars: str) -> str:
    """The parameters of a query or fragment; a value without a name is a secret too."""
    return "".join(
        part if part in ("&", ";") else _value(part, stars) for part in re.split("([&;])", query)
    )


def _value(parameter: str, stars: str) -> str:
    name, equal, value = parameter.partition("=")
    if unquote(name).rstrip("\\").lower() in HARMLESS:
        return name + equal + redacted(value, stars)
    if not value.strip("="):  # a bare word, or one in base64 with its padding
        return _starred(parameter, stars)
    return name + equal + _starred(value, stars)


def _starred(secret: str, stars: str) -> str:
    kept = not secret or _REDACTED.fullmatch(secret) or _TEMPLATE.fullmatch(secret)
    return secret if kept else stars


def _each(text: str, change: Callable[[str, str], str]) -> str:
    """`text` with each address in it changed by `change(address, the quote in which it is)`.

    In quotes an address runs to their end; elsewhere a comma, or a bracket that was open, ends it.
    """
    done, at = "", 0
    while text.find("://", at) >= 0 and (token := _TOKEN.search(text, at)) is not None:
        quote: str = token["quote"] or ""
        opened = (b for a, b in _BRACKETS if not quote and a in text[: token.start()])
        ends = quote or re.escape("," + "".join(opened))
        body = re.compile(rf"(?:\\.|\$\{{[^{{}}]*\}}|[^\\{ends}]|\\$)*", re.DOTALL)
        stop = body.match(text, token.end()).end()  # type: ignore[union-attr]
        scheme = _SCHEME.search(text, token.start(), stop)
        start = scheme.start() if scheme else stop
        done += text[at:start] + (change(text[start:stop], quote) if scheme else "")
        at = stop + len(quote)
        done += text[stop:at]
    return done + text[at:]


def _parsed(raw: str, quote: str) -> str:
    """What Hydra makes of a value as it is typed."""
    if quote:
        return re.sub(rf"\\+(?={quote}|$)", lambda found: found[0][: len(found[0]) // 2], raw)
    return _ESCAPED.sub(r"\1", raw.rstrip())


class Addresses:
    """The whole addresses of one command, by what is shown of them. In memory only.

    Two that differ only in their secrets are shown apart, `***` and `***2`.
    """

    def __init__(self) -> None:
        self._whole: dict[str, str] = {}
        self._received: dict[str, str] = {}

    def __repr__(self) -> str:
        return f"Addresses({len(self._whole)})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("whole addresses are never pickled")

    def command(self, arguments: Sequence[str]) -> list[str]:
        """The arguments of a new command, redacted; those of the one before it are forgotten."""
        self.receive()
        self._whole = dict(self._received)
        return [self.redact(argument) for argument in arguments]

    def redact(self, argument: str) -> str:
        """`argument`, in the grammar of Hydra's overrides, with its addresses redacted."""

        def change(raw: str, quote: str) -> str:
            return self._kept(raw, lambda text: _parsed(text, quote))

        return _each(argument, change)

    def redact_values(self, plain: Any) -> Any:
        """A copy of plain containers and dataclasses with the addresses in them redacted."""
        if is_dataclass(plain) and not isinstance(plain, type):
            parts = {f.name: self.redact_values(getattr(plain, f.name)) for f in fields(plain)}
            return replace(plain, **parts)
        if isinstance(plain, Mapping):
            return {key: self.redact_values(value) for key, value in plain.items()}
        if isinstance(plain, list | tuple):
            return type(plain)(map(self.redact_values, plain))
        return self._of_value(plain) if isinstance(plain, str) else plain

    def redact_config(self, config: DictConfig | ListConfig) -> None:
        """Redact the addresses in a composed configuration, in place; nothing is resolved."""
        keys: Any = config.keys() if isinstance(config, DictConfig) else range(len(config))
        for key in list(keys):
            node: Any = config._get_node(key)
            if isinstance(node, DictConfig | ListConfig):
                self.redact_config(node)
            elif isinstance(raw := node._value(), str):
                in_grammar = config._get_full_key(key).startswith(_IN_GRAMMAR)
                shown = self.redact(raw) if in_grammar else self._of_value(raw)
                if shown != raw:
                    with read_write(config):
                        config[key] = shown

    def restore(self, shown: str, key: str = "") -> str:
        """The whole address for a redacted one; any other text as it is.

        Args:
            shown: what the configuration holds.
            key: where it stands there, for the message.

        Raises:
            UserError: this process has never seen the whole address.
        """
        scheme = _SCHEME.search(shown)
        start = scheme.start() if scheme else len(shown)
        whole = shown[:start] + self._whole.get(shown[start:], shown[start:])
        if scheme and _HOLDS_REDACTED.search(whole):
            raise UserError(
                f"{key}{'=' if key else ''}{shown}: {_STARS} stands for a secret, which is never "
                "stored; must be the whole address, typed again"
            )
        return whole

    def restore_values(self, plain: Any, key: str = "") -> Any:
        """A copy of plain containers with whole addresses; raises as `restore`."""
        if isinstance(plain, Mapping):
            return {k: self.restore_values(v, f"{key}.{k}".strip(".")) for k, v in plain.items()}
        if isinstance(plain, list | tuple):
            return type(plain)(self.restore_values(value, key) for value in plain)
        return self.restore(plain, key) if isinstance(plain, str) else plain

    def environment(self) -> dict[str, str]:
        """The variable that hands the addresses to a process; nothing where there are none."""
        return {VARIABLE: json.dumps(self._whole)} if self._whole else {}

    @contextmanager
    def exported(self) -> Iterator[None]:
        """Processes that are started in the block get the addresses."""
        os.environ.update(self.environment())
        try:
            yield
        finally:
            os.environ.pop(VARIABLE, None)

    def receive(self) -> None:
        """Take what the process that started this one has handed over, out of the environment."""
        handed = os.environ.pop(VARIABLE, None)
        if handed is not None:
            self._received = json.loads(handed)
            self._whole |= self._received

    def _of_value(self, value: str) -> str:
        scheme = _SCHEME.search(value)
        start = scheme.start() if scheme else len(value)
        return value[:start] + self._kept(value[start:], str)

    def _kept(self, raw: str, parsed: Callable[[str], str]) -> str:
        """`raw` redacted, and remembered under what a configuration will hold for it."""
        whole = parsed(raw)
        if _STARS in whole:  # not the whole address: nothing could be restored from it
            return redacted(raw, _STARS)
        for number in count(1):
            shown = redacted(raw, _STARS + (str(number) if number > 1 else ""))
            if shown == raw:
                break
            if self._whole.setdefault(parsed(shown), whole) == whole:
                return shown
        return raw


ADDRESSES = Addresses()
"""Those of this process: of its command line, or of what it was started for."""
