"""Which receivers may be told (§12.8)."""

from typing import Any

import pytest

from durable_streams_core.errors import SubscriptionError
from durable_streams_server.subscriptions.receivers import LOOPBACK, PUBLIC, TRUSTED, Receivers

USUAL = Receivers((), localhost=True)
PRODUCTION = Receivers((), localhost=False)
ALLOWING = Receivers(
    ("hooks.internal", "*.corp.example", "10.1.0.0/16", "fd12::/32"), localhost=False
)


@pytest.mark.parametrize(
    "url",
    [
        "https://worker.example/hooks?x=1",
        "https://worker.example:8443",
        "https://8.8.8.8/",
        "https://[2606:4700::1111]/",
        "https://[::ffff:8.8.8.8]/",
        "https://xn--bcher-kva.example/",
    ],
)
def test_public_https_receivers_may_be_told(url: str) -> None:
    assert USUAL.judge(url) == PUBLIC


@pytest.mark.parametrize(
    "url", ["http://localhost:9/x", "http://127.0.0.1/", "http://127.0.0.9:80", "http://LOCALHOST"]
)
def test_localhost_is_an_exception_for_development(url: str) -> None:
    assert USUAL.judge(url) == LOOPBACK
    with pytest.raises(SubscriptionError):
        PRODUCTION.judge(url)


@pytest.mark.parametrize(
    "url",
    [
        "http://worker.example/",
        "http://10.0.0.1/hook",
        "https://10.0.0.1/",
        "https://172.16.0.1/",
        "https://192.168.1.1/",
        "https://127.0.0.1/",
        "https://localhost/",
        "https://localhost./",
        "https://a.localhost/",
        "https://0.0.0.0/",
        "https://100.64.0.1/",
        "https://169.254.169.254/latest/meta-data",
        "https://168.63.129.16/",
        "https://224.0.0.1/",
        "https://240.0.0.1/",
        "https://255.255.255.255/",
        "https://[::1]/",
        "https://[::]/",
        "https://[fe80::1]/",
        "https://[fe80::1%25eth0]/",
        "https://[fc00::1]/",
        "https://[fd00:ec2::254]/",
        "https://[ff02::1]/",
        "https://[::ffff:10.0.0.1]/",
        "https://[::ffff:7f00:1]/",
        "https://[64:ff9b::a00:1]/",
        "https://[2002:a00:1::]/",
        "https://[2001:0:1::]/",
        "https://[fec0::1]/",
        "https://[::10.0.0.1]/",
        "https://[64:ff9b:1::1]/",
        "https://[100::1]/",
        "https://[2001:db8::1]/",
        "https://[2001:1ff::1]/",
        "https://[3fff::1]/",
        "https://[5f00::1]/",
        "https://192.0.0.9/",
        "https://192.88.99.1/",
        "https://198.19.255.255/",
        "https://203.0.113.1/",
        "https://100.127.255.255/",
        "https://2130706433/",
        "https://0x7f000001/",
        "https://0x7f.1/",
        "https://017700000001/",
        "https://127.1/",
        "https://0251.0376.0251.0376/",
        "https://10.0.0.1./",
        "http://[::1]/",
        "http://2130706433/",
        "http://127.1/",
        "ftp://worker.example/",
        "file:///etc/passwd",
        "//worker.example/",
        "worker.example",
        "https://",
        "https:///x",
        "https://user:secret@worker.example/",
        "https://user@worker.example/",
        "https://worker.example/#fragment",
        "https://worker.example\\@10.0.0.1/",
        "https://worker.example:0/",
        "https://worker.example:99999/",
        "https://worker.example/a b",
        "https://worker.example/\r\nHost: x",
        "https://wörker.example/",
        "https://①②⑦.0.0.1/",
        "https://a%2eexample/",
        "https://[1::2::3]/",
        "https://[1:2]/",
        "https://[/",
        "https://a..b/",
    ],
)
def test_what_may_not_be_told_is_rejected(url: str) -> None:
    with pytest.raises(SubscriptionError) as raised:
        USUAL.judge(url)
    assert (raised.value.code, raised.value.status) == ("WEBHOOK_URL_REJECTED", 400)


@pytest.mark.parametrize(
    "url",
    [
        "http://hooks.internal/x",
        "https://HOOKS.internal./x",
        "http://a.corp.example/",
        "https://10.1.2.3/",
        "http://[::ffff:10.1.2.3]/",
        "https://[fd12::1]/",
    ],
)
def test_an_allow_list_admits_what_it_names(url: str) -> None:
    assert ALLOWING.judge(url) == TRUSTED


@pytest.mark.parametrize("url", ["https://10.2.0.1/", "http://corp.example/", "http://x.internal/"])
def test_and_nothing_else(url: str) -> None:
    with pytest.raises(SubscriptionError):
        ALLOWING.judge(url)


@pytest.mark.parametrize(
    "door, address, admitted",
    [
        (PUBLIC, "8.8.8.8", True),
        (PUBLIC, "2606:4700::1111", True),
        (PUBLIC, "2001:4860:4860::8888", True),
        (PUBLIC, "2001:200::1", True),
        (PUBLIC, "192.0.1.1", True),
        (PUBLIC, "100.128.0.1", True),
        (PUBLIC, "fec0::1", False),
        (PUBLIC, "::ffff:192.0.0.1", False),
        (PUBLIC, "64:ff9b::808:808", True),
        (LOOPBACK, "::ffff:127.0.0.1", True),
        (PUBLIC, "10.0.0.1", False),
        (PUBLIC, "127.0.0.1", False),
        (PUBLIC, "::1", False),
        (PUBLIC, "::ffff:169.254.169.254", False),
        (PUBLIC, "fe80::1%eth0", False),
        (PUBLIC, "64:ff9b::7f00:1", False),
        (LOOPBACK, "127.0.0.1", True),
        (LOOPBACK, "::1", True),
        (LOOPBACK, "10.0.0.1", False),
        (LOOPBACK, "8.8.8.8", False),
        (TRUSTED, "10.0.0.1", True),
    ],
)
def test_every_address_is_looked_at_when_it_is_connected_to(
    door: Any, address: str, admitted: bool
) -> None:
    assert USUAL.admits(door, address) is admitted
    assert ALLOWING.admits(PUBLIC, "10.1.0.9")
