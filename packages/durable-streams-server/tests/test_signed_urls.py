"""Signed read URLs: reading without headers, for one stream and a limited time."""

import time
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import pytest
from wire import Client

from durable_streams_core.errors import InvalidRequest
from durable_streams_server import Engine
from durable_streams_server.signing import ReadSigner

OLD, NEW = "the-old-key-of-the-server", "the-new-key-of-the-server"


@pytest.fixture
async def client(serve: Any) -> Client:
    """A server that nobody may use without a signature."""
    client: Client = await serve(signing_keys=[NEW, OLD], token="secret")
    await client.engine.create("chats/1", content_type="text/plain", data="hello")
    return client


def test_a_signature_permits_each_way_of_reading_until_it_expires() -> None:
    signer = ReadSigner([NEW])
    for expires in (60, timedelta(minutes=1), datetime.now(UTC) + timedelta(minutes=1)):
        name, _, value = signer.sign("chats/1", expires).partition("=")
        assert name == "sig"
        signer.check("chats/1", value)


async def test_a_signed_url_reads_and_follows(client: Client) -> None:
    query = "?" + client.engine.sign("chats/1", expires=60)
    assert (await client.get("chats/1" + query)).body == b"hello"
    assert (await client.head("chats/1" + query)).status == 200
    events = await client.sse(f"chats/1{query}&offset=-1&live=sse")
    assert (await events.batch())[0] == "hello"


async def test_without_a_signature_access_is_as_before(client: Client) -> None:
    assert (await client.get("chats/1")).status == 401
    assert (await client.get("chats/1", authorization="Bearer secret")).status == 200


@pytest.mark.parametrize("method", ["PUT", "POST", "DELETE"])
async def test_a_signed_url_does_not_write(client: Client, method: str) -> None:
    query = "?" + client.engine.sign("chats/1", expires=60)
    fields = {"content-type": "text/plain", "authorization": "Bearer secret"}
    body = None if method == "DELETE" else b"x"
    answer = await client.request(method, "chats/1" + query, fields, body)
    assert (answer.status, answer.code) == (403, "signature-read-only")
    assert (await client.engine.read("chats/1")).data == b"hello"


async def test_a_signature_is_good_for_its_stream_alone(client: Client) -> None:
    await client.engine.create("chats/2", content_type="text/plain", data="secret")
    query = "?" + client.engine.sign("chats/1", expires=60)
    for path in ("chats/2", "chats/1/x", "chats", "__ds/streams"):
        answer = await client.get(path + query)
        assert answer.status in (401, 403), path
        assert b"secret" not in answer.body


@pytest.mark.parametrize(
    "value",
    [
        *("", ".", "x", "99999999999", "99999999999."),
        *("9999999999999." + "A" * 43, "-1." + "A" * 43, "99999999999." + "A" * 43),
        *("99999999999." + "é" * 43, "١٢." + "A" * 43),
    ],
)
async def test_a_signature_that_was_tampered_with_is_refused(client: Client, value: str) -> None:
    answer = await client.get("chats/1?sig=" + quote(value))
    assert (answer.status, answer.code) == (403, "signature-invalid")


async def test_a_later_expiry_cannot_be_written_into_a_signature(client: Client) -> None:
    _, _, value = client.engine.sign("chats/1", expires=60).partition("=")
    expiry, _, signature = value.partition(".")
    answer = await client.get(f"chats/1?sig={int(expiry) + 1}.{signature}")
    assert (answer.status, answer.code) == (403, "signature-invalid")


def test_an_expired_signature_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    signer = ReadSigner([NEW])
    value = signer.sign("chats/1", 60).partition("=")[2]
    now = time.time()
    monkeypatch.setattr("durable_streams_server.signing.time.time", lambda: now + 62)
    with pytest.raises(Exception, match="expired") as caught:
        signer.check("chats/1", value)
    assert getattr(caught.value, "code", None) == "signature-expired"


def test_keys_rotate_without_breaking_urls_that_are_out() -> None:
    before = ReadSigner([OLD]).sign("a", 60).partition("=")[2]
    ReadSigner([NEW, OLD]).check("a", before)
    after = ReadSigner([NEW, OLD]).sign("a", 60).partition("=")[2]
    ReadSigner([NEW]).check("a", after)


@pytest.mark.parametrize("keys", [[], [""], ["short"], [NEW, "short"]])
def test_weak_keys_are_refused(keys: list[str]) -> None:
    with pytest.raises(ValueError, match="key"):
        ReadSigner(keys)


@pytest.mark.parametrize("expires", [0, -1, timedelta(0), datetime(2020, 1, 1, tzinfo=UTC), 1e15])
def test_an_expiry_that_makes_no_sense_is_refused(expires: Any) -> None:
    with pytest.raises(ValueError, match="expires"):
        ReadSigner([NEW]).sign("a", expires)


def test_a_moment_needs_its_time_zone() -> None:
    with pytest.raises(ValueError, match="time zone"):
        ReadSigner([NEW]).sign("a", datetime(2030, 1, 1))  # noqa: DTZ001 - the point of it


def test_what_cannot_be_a_stream_is_not_signed() -> None:
    with pytest.raises(InvalidRequest):
        ReadSigner([NEW]).sign("a//b", 60)


def test_an_engine_without_keys_says_what_is_missing() -> None:
    with pytest.raises(ValueError, match="signing_keys"):
        Engine("memory:").sign("a", expires=60)
