"""Which addresses may be asked."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from perdure.io.http import HttpSource, check, clean, origin
from perdure.io.transfer import Limits, RefusedError, Transfer


@pytest.mark.parametrize(
    "host",
    [
        "169.254.169.254",
        "169.254.169.254:80",
        "2852039166",
        "0xA9FEA9FE",
        "0251.0376.0251.0376",
        "169.254.43518",
        "169.254.170.2",
        "100.100.100.200",
        "[fd00:ec2::254]",
        "[fe80::1]",
        "[::ffff:169.254.169.254]",
        "[0:0:0:0:0:ffff:a9fe:a9fe]",
        "metadata.google.internal",
        "METADATA.google.internal.",
        "metadata.goog",
    ],
    ids=str,
)
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_cloud_metadata_service_is_not_contacted(scheme: str, host: str) -> None:
    with pytest.raises(RefusedError, match="metadata service"):
        check(f"{scheme}://{host}/latest/meta-data/")


@pytest.mark.parametrize("url", ["http://169.254.169.254/", "file:///etc/passwd"], ids=str)
def test_a_request_checks_for_itself(url: str) -> None:
    with pytest.raises(RefusedError), HttpSource(0.1)(url, 0, {}, {}, Transfer(Limits())):
        pass


def test_nor_through_a_name_that_leads_there(monkeypatch: pytest.MonkeyPatch) -> None:
    def look_up(host: str, *args: Any, **kwargs: Any) -> list[Any]:
        addresses = ["192.0.2.1", "169.254.169.254"] if host == "plain.example" else ["192.0.2.1"]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (a, 0)) for a in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    check("http://other.example/")
    with pytest.raises(RefusedError, match="metadata service"):
        check("http://plain.example/")


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1:8080/x", "https://[::1]/x", "http://10.0.0.1", "http://169.253.0.1/"],
    ids=str,
)
def test_other_addresses_are_contacted_private_ones_too(url: str) -> None:
    check(url)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://Host/x", "http://host:80"),
        ("https://host/x", "https://host:443"),
        ("https://host:443/x", "https://host:443"),
        ("http://host:443/x", "http://host:443"),
    ],
    ids=str,
)
def test_an_origin_is_scheme_host_and_port(url: str, expected: str) -> None:
    assert origin(url) == expected


def test_cleaning_twice_is_cleaning_once() -> None:
    assert clean("http://h/a b\n%20é?q=[1]#x") == "http://h/a%20b%0A%20%C3%A9?q=[1]#x"
    assert clean(clean("http://h/a b%20é")) == clean("http://h/a b%20é")
