"""JSON Web Tokens: who they let in, and every way in which they must not."""

import asyncio
import base64
import hmac
import json
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import jwt
import pytest
from aiohttp import web
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given
from hypothesis import strategies as st
from wire import Client

from durable_streams_core.errors import ProtocolError
from durable_streams_server import Access, JwtVerifier, Principal, Rights
from durable_streams_server.access import jwks
from durable_streams_server.access.grants import Grant
from durable_streams_server.caches import ByteCache
from durable_streams_server.http.messages import RequestHead

KEY = ec.generate_private_key(ec.SECP256R1())
OTHER_KEY = ec.generate_private_key(ec.SECP256R1())
RSA_KEY = rsa.generate_private_key(65537, 2048)
SECRET = "a shared secret of thirty-two bytes"
NOW = 1_800_000_000.0
RIGHTS = Rights(all=["chats/{sub}/**"], read=["teams/{team}/*"], names=True)


def pem(key: Any = KEY) -> str:
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return str(public.decode())


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


def token(key: Any = KEY, algorithm: str = "ES256", kid: Any = None, **claims: Any) -> bytes:
    given = {"sub": "alice", "iss": "issuer", "aud": "streams", "exp": NOW + 60, **claims}
    given = {name: value for name, value in given.items() if value is not ...}
    headers = {} if kid is None else {"kid": kid}
    # PyJWT checks what it encodes; a hostile token is not checked by anybody.
    return jwt.PyJWS().encode(json.dumps(given).encode(), key, algorithm, headers=headers).encode()


def verifier(clock: Clock | None = None, **settings: Any) -> JwtVerifier:
    given = {"key": pem(), "algorithms": ["ES256"], **settings}
    return JwtVerifier(RIGHTS, issuer="issuer", audience="streams", clock=clock or Clock(), **given)


def found(verify: JwtVerifier, sent: bytes) -> Grant:
    grant = verify.find(sent)
    assert isinstance(grant, Grant)
    return grant


def code_of(verify: JwtVerifier, sent: bytes) -> str:
    with pytest.raises(ProtocolError) as caught:
        found(verify, sent)
    assert caught.value.status == 401
    assert "invalid_token" in caught.value.headers["WWW-Authenticate"]
    return caught.value.code


def permits(grant: Grant, action: str, path: str) -> bool:
    try:
        return grant.require(action, path) == grant.principal
    except ProtocolError as error:
        assert error.status == 403
        return False


def test_claims_say_what_a_token_permits() -> None:
    grant = found(verifier(), token(team="blue"))
    assert grant.principal == Principal("jwt:alice")
    assert permits(grant, "append", "chats/alice/1")
    assert permits(grant, "read", "teams/blue/x")
    assert not permits(grant, "append", "chats/bob/1")
    assert not permits(grant, "append", "teams/blue/x")


@pytest.mark.parametrize(
    "value", ["a/../b", "*", "**", "", ".", "..", None, 7, ["alice"], {"a": 1}, "a\\b", "a\0b", ...]
)
def test_a_claim_adds_neither_segments_nor_wildcards(value: Any) -> None:
    grant = found(verifier(), token(team=value))
    for path in ("teams/blue/x", "teams/a/b", "teams/*/x", "teams//x", "teams/b/x", "teams/7/x"):
        assert not permits(grant, "read", path)
    assert not permits(grant, "subscribe", "teams/*/*")


@pytest.mark.parametrize("value", ["", None, 7, ["alice"], "a\nb", "a" * 300, ...])
def test_a_token_that_names_nobody_is_not_valid(value: Any) -> None:
    assert code_of(verifier(), token(sub=value)) == "token-invalid"


@given(st.text(min_size=1, max_size=20))
def test_no_subject_reaches_the_streams_of_another(subject: str) -> None:
    try:
        grant = verifier().find(token(sub=subject))
    except ProtocolError:
        return
    assert isinstance(grant, Grant)
    for other in ("bob", "alice", "alice2", "*", "a/b", "__ds"):
        if other != subject:
            assert not permits(grant, "read", f"chats/{other}/x")
            assert not permits(grant, "subscribe", f"chats/{other}/**")


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(token(OTHER_KEY), id="another key"),
        pytest.param(token(aud="another"), id="another audience"),
        pytest.param(token(aud=...), id="no audience"),
        pytest.param(token(iss="another"), id="another issuer"),
        pytest.param(token(iss=...), id="no issuer"),
        pytest.param(token(iss=["issuer"]), id="issuers"),
        pytest.param(token(exp=...), id="no expiry"),
        pytest.param(token(exp="soon"), id="an expiry in words"),
        pytest.param(token(exp=True), id="an expiry that is true"),
        pytest.param(token(exp=float("inf")), id="an endless expiry"),
        pytest.param(token(exp=10**400), id="an expiry beyond all numbers"),
        pytest.param(token(nbf=NOW + 60), id="not valid yet"),
        pytest.param(token(RSA_KEY, "RS256"), id="an algorithm that is not allowed"),
        pytest.param(token(None, "none"), id="none"),
        pytest.param(token(SECRET, "HS256"), id="a shared secret"),
        pytest.param(b"", id="empty"),
        pytest.param(b"a.b.c", id="noise"),
        pytest.param(b"a" * 8000, id="long noise"),
        pytest.param(b"\xff.\xff.\xff", id="bytes"),
    ],
)
def test_what_is_not_valid_is_refused_without_saying_why(sent: bytes) -> None:
    assert code_of(verifier(), sent) == "token-invalid"


def encoded(part: object) -> str:
    raw = part if isinstance(part, bytes) else json.dumps(part).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


@pytest.mark.parametrize(
    "header",
    [
        {"alg": "None"},
        {"alg": ["ES256"]},
        {"alg": None},
        {"alg": "ES256", "crit": ["x"], "x": 1},
        {"alg": "ES256", "kid": 7},
        {"alg": "ES256", "jwk": {"kty": "oct", "k": "AA"}},
        {"alg": "ES256", "jku": "https://attacker.example/"},
        [],
        "ES256",
        b"[" * 2000,
    ],
)
def test_a_hostile_header_is_refused(header: object) -> None:
    _, body, signature = token().decode().split(".")
    assert code_of(verifier(), f"{encoded(header)}.{body}.{signature}".encode()) == "token-invalid"


@given(st.binary(max_size=200), st.integers(0, 2))
def test_no_change_of_a_token_is_let_in(noise: bytes, part: int) -> None:
    parts = token().decode().split(".")
    changed = [*parts]
    changed[part] = encoded(noise)
    if changed != parts:
        assert code_of(verifier(), ".".join(changed).encode()) == "token-invalid"


def test_a_public_key_is_never_taken_for_a_shared_secret() -> None:
    forged = jwt.PyJWS().encode(b"{}", b"x" * 32, "HS256").split(".")
    signed = ".".join(forged[:2]).encode()
    digest = hmac.digest(pem().encode(), signed, "sha256")
    signature = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
    assert code_of(verifier(), signed + b"." + signature.encode()) == "token-invalid"


def test_a_token_expires_although_it_was_verified_before() -> None:
    clock = Clock()
    verify = verifier(clock, leeway=5)
    sent = token(exp=NOW + 10)
    assert found(verify, sent) is found(verify, sent)
    clock.now += 14
    found(verify, sent)
    clock.now += 1
    assert code_of(verify, sent) == "token-expired"
    assert code_of(verifier(clock), token(exp=NOW - 100)) == "token-expired"


def test_clocks_may_differ_by_the_leeway() -> None:
    assert found(verifier(leeway=30), token(nbf=NOW + 29, iat=NOW + 3600))
    assert code_of(verifier(leeway=30), token(nbf=NOW + 31)) == "token-invalid"


@pytest.mark.parametrize(
    "settings, says",
    [
        ({"algorithms": []}, "algorithms must list"),
        ({"algorithms": ["none"]}, "algorithms must list"),
        ({"algorithms": ["ES256", "HS256"]}, "one kind"),
        ({"algorithms": ["HS256"]}, "does not go with"),
        ({"key": None, "secret": SECRET}, "does not go with"),
        ({"algorithms": ["HS256"], "key": None, "secret": "short"}, "32 bytes"),
        ({"algorithms": ["RS256"]}, "not a key for RS256"),
        ({"key": "rubbish"}, "PEM"),
        ({"key": None}, "one of key"),
        ({"secret": SECRET}, "one of key"),
        ({"leeway": -1}, "leeway"),
        ({"leeway": float("nan")}, "leeway"),
        ({"key": None, "jwks": "http://issuer.example/jwks"}, "https"),
        ({"key": None, "jwks": "file:///etc/passwd"}, "https"),
        ({"key": None, "jwks": "http://localhost.evil.example/"}, "https"),
    ],
)
def test_unsafe_settings_are_refused(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        verifier(**settings)


def test_issuer_and_audience_are_needed() -> None:
    with pytest.raises(ValueError, match="another service"):
        JwtVerifier(RIGHTS, key=pem(), algorithms=["ES256"], issuer="", audience="x")


def test_a_shared_secret_verifies_too() -> None:
    verify = verifier(algorithms=["HS256"], key=None, secret=SECRET)
    assert found(verify, token(SECRET, "HS256"))
    assert code_of(verify, token("another secret of thirty-two bytes!", "HS256")) == "token-invalid"


# A set of keys at an address.


class Issuer:
    """Serves a JWKS, or what the test says."""

    def __init__(self) -> None:
        self.keys = {"one": KEY}
        self.answer: Callable[[], Awaitable[web.StreamResponse]] | None = None
        self.requests = 0
        self.url = ""

    async def handle(self, _request: web.Request) -> web.StreamResponse:
        self.requests += 1
        if self.answer is not None:
            return await self.answer()
        return web.json_response({"keys": [public(key, kid) for kid, key in self.keys.items()]})


def public(key: Any, kid: str) -> dict[str, Any]:
    made = jwt.algorithms.ECAlgorithm.to_jwk(key.public_key(), as_dict=True)
    return {**made, "kid": kid}


class Ticks:
    """Seconds that only a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
async def issuer() -> AsyncIterator[Issuer]:
    served = Issuer()
    app = web.Application()
    app.router.add_get("/jwks", served.handle)
    app.router.add_get("/moved", served.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    served.url = f"http://127.0.0.1:{runner.addresses[0][1]}/jwks"
    yield served
    await runner.cleanup()


@pytest.fixture
def ticks() -> Ticks:
    return Ticks()


def by_address(issuer: Issuer, ticks: Ticks) -> JwtVerifier:
    return verifier(key=None, jwks=issuer.url, key_clock=ticks)


async def settled(verify: JwtVerifier, sent: bytes) -> Grant:
    grant = verify.find(sent)
    return grant if isinstance(grant, Grant) else await grant


async def code_later(verify: JwtVerifier, sent: bytes) -> str:
    with pytest.raises(ProtocolError) as caught:
        await settled(verify, sent)
    return caught.value.code


async def test_keys_are_fetched_once_for_all_who_wait(issuer: Issuer, ticks: Ticks) -> None:
    verify = by_address(issuer, ticks)
    grants = await asyncio.gather(*(settled(verify, token(kid="one", n=n)) for n in range(20)))
    assert {grant.principal.name for grant in grants} == {"jwt:alice"}
    assert issuer.requests == 1
    # From now on nobody waits.
    assert isinstance(verify.find(token(kid="one", n=99)), Grant)


async def test_an_unknown_key_is_looked_for_at_most_twice_a_minute(
    issuer: Issuer, ticks: Ticks
) -> None:
    verify = by_address(issuer, ticks)
    await settled(verify, token(kid="one"))
    for n in range(50):
        assert await code_later(verify, token(OTHER_KEY, kid=f"unknown-{n}")) == "token-invalid"
    assert issuer.requests == 1
    issuer.keys["two"] = OTHER_KEY
    ticks.now += 31
    assert await settled(verify, token(OTHER_KEY, kid="two"))
    assert issuer.requests == 2


@pytest.mark.parametrize(
    "purpose",
    [
        {"use": "enc"}, {"use": ["sig"]}, {"key_ops": ["sign"]}, {"key_ops": []},
        {"key_ops": "verify"}, {"key_ops": {"verify": True}}, {"key_ops": None},
        {"use": "sig", "key_ops": ["encrypt", "wrapKey"]},
    ],
)  # fmt: skip
def test_a_key_that_is_published_for_another_purpose_verifies_nothing(
    purpose: dict[str, object],
) -> None:
    assert jwks.algorithms_of(public(KEY, "one")) == {"ES256"}
    assert jwks.algorithms_of({**public(KEY, "one"), "use": "sig", "key_ops": ["verify"]})
    assert not jwks.algorithms_of({**public(KEY, "one"), **purpose})


async def test_keys_survive_a_change_of_the_rules_while_their_address_is_away(
    issuer: Issuer, ticks: Ticks
) -> None:
    access = Access(jwt=by_address(issuer, ticks))
    sent = {b"authorization": b"Bearer " + token(kid="one")}
    asked = RequestHead("GET", "", "", sent, root="/")
    permitted = access("read", "chats/alice/1", asked)
    assert not isinstance(permitted, Principal | bool)
    await permitted
    issuer.keys = {}
    access.become(Access(jwt=by_address(issuer, ticks)))
    assert access("read", "chats/alice/1", asked) == Principal("jwt:alice")
    assert issuer.requests == 1


def test_the_password_of_a_refused_address_is_not_told() -> None:
    with pytest.raises(ValueError, match="https") as caught:
        verifier(key=None, jwks="http://svc:topsecret@login.example/jwks")
    assert "topsecret" not in str(caught.value)


async def test_a_key_that_was_withdrawn_verifies_nothing_any_more(
    issuer: Issuer, ticks: Ticks
) -> None:
    verify = by_address(issuer, ticks)
    sent = token(kid="one")
    await settled(verify, sent)
    issuer.keys = {"two": OTHER_KEY}
    ticks.now += jwks.MAX_AGE_SECONDS + 1
    # The request that finds the keys old does not wait for new ones.
    assert isinstance(verify.find(sent), Grant)
    async with asyncio.timeout(60):
        while isinstance(code := await result_of(verify, sent), Grant):
            await asyncio.sleep(0.01)
    assert code == "token-invalid"


async def test_a_key_that_was_withdrawn_while_the_server_was_idle_verifies_nothing(
    issuer: Issuer, ticks: Ticks
) -> None:
    verify = by_address(issuer, ticks)
    await settled(verify, token(kid="one"))
    issuer.keys = {"two": OTHER_KEY}
    ticks.now += jwks.IDLE_SECONDS + 1
    codes = await asyncio.gather(*(code_later(verify, token(kid="one", n=n)) for n in range(3)))
    assert set(codes) == {"token-invalid"}
    assert issuer.requests == 2
    assert isinstance(await settled(verify, token(OTHER_KEY, kid="two")), Grant)


async def test_known_keys_go_on_when_their_address_was_away_while_the_server_was_idle(
    issuer: Issuer, ticks: Ticks
) -> None:
    verify = by_address(issuer, ticks)
    sent = token(kid="one")
    await settled(verify, sent)
    issuer.keys = {}
    ticks.now += jwks.IDLE_SECONDS + 1
    assert isinstance(await settled(verify, sent), Grant)
    # The next ones do not wait for the address.
    ticks.now += jwks.REFRESH_SECONDS + 1
    assert isinstance(verify.find(sent), Grant)


async def result_of(verify: JwtVerifier, sent: bytes) -> Grant | str:
    try:
        return await settled(verify, sent)
    except ProtocolError as error:
        return error.code


async def broken() -> web.StreamResponse:
    return web.Response(status=500)


async def moved() -> web.StreamResponse:
    raise web.HTTPFound("/moved")


async def huge() -> web.StreamResponse:
    return web.Response(body=b" " * (jwks.MAX_BYTES + 1))


async def nonsense() -> web.StreamResponse:
    return web.Response(body=b"[" * 100_000)


async def no_keys() -> web.StreamResponse:
    return web.json_response({"keys": [{"kty": "oct", "k": "AA", "kid": "one", "alg": "HS256"}]})


async def private() -> web.StreamResponse:
    made = jwt.algorithms.ECAlgorithm.to_jwk(KEY, as_dict=True)
    return web.json_response({"keys": [{**made, "kid": "one"}]})


async def many() -> web.StreamResponse:
    return web.json_response({"keys": [public(KEY, str(n)) for n in range(101)]})


async def odd() -> web.StreamResponse:
    return web.json_response({"keys": [7, {"kty": "EC"}, {"kty": "EC", "crv": []}, {"alg": 1}]})


HOSTILE = [broken, moved, huge, nonsense, no_keys, private, many, odd]


@pytest.mark.parametrize("answer", HOSTILE)
async def test_an_answer_that_is_not_a_set_of_keys_changes_nothing(
    issuer: Issuer,
    ticks: Ticks,
    answer: Callable[[], Awaitable[web.StreamResponse]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    issuer.answer = answer
    verify = by_address(issuer, ticks)
    assert await code_later(verify, token(kid="one")) == "keys-unavailable"
    assert "cannot be fetched" in caplog.text
    issuer.answer = None
    ticks.now += 31
    await settled(verify, token(kid="one"))
    issuer.answer = answer
    ticks.now += 31
    assert await code_later(verify, token(kid="two")) == "token-invalid"
    assert isinstance(verify.find(token(kid="one", n=1)), Grant)


async def test_a_slow_answer_is_not_waited_for_for_ever(
    issuer: Issuer, ticks: Ticks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jwks, "FETCH_SECONDS", 0.05)
    never = asyncio.Event()

    async def slow() -> web.StreamResponse:
        await never.wait()
        return web.Response()

    issuer.answer = slow
    assert await code_later(by_address(issuer, ticks), token(kid="one")) == "keys-unavailable"
    never.set()


async def test_a_key_without_an_id_is_found_where_it_is_the_only_one(
    issuer: Issuer, ticks: Ticks
) -> None:
    verify = by_address(issuer, ticks)
    assert await settled(verify, token())
    issuer.keys["two"] = OTHER_KEY
    ticks.now += 31
    again = by_address(issuer, ticks)
    assert await code_later(again, token()) == "token-invalid"


async def test_a_request_that_goes_away_does_not_end_the_fetch(
    issuer: Issuer, ticks: Ticks
) -> None:
    verify = by_address(issuer, ticks)
    first = asyncio.create_task(settled(verify, token(kid="one")))
    second = asyncio.create_task(settled(verify, token(kid="one", n=2)))
    await asyncio.sleep(0)
    first.cancel()
    assert (await second).principal.name == "jwt:alice"
    assert issuer.requests == 1


async def test_tokens_are_verified_through_every_front_end(
    serve: Callable[..., Awaitable[Client]], issuer: Issuer, ticks: Ticks
) -> None:
    client = await serve(authorize=Access(jwt=by_address(issuer, ticks)))
    alice = {"authorization": f"Bearer {token(kid='one').decode()}"}
    assert (await client.put("chats/alice/1", body=b"x", **alice)).status == 201
    assert (await client.get("chats/alice/1", **alice)).body == b"x"
    assert (await client.get("chats/bob/1", **alice)).status == 403
    old = {"authorization": f"Bearer {token(kid='one', exp=NOW - 100).decode()}"}
    expired = await client.get("chats/alice/1", **old)
    assert (expired.status, expired.code) == (401, "token-expired")
    assert expired["www-authenticate"].startswith('Bearer error="invalid_token"')


def test_the_same_token_in_any_request_object_is_the_same() -> None:
    access = Access(jwt=verifier())
    sent = b"Bearer " + token()
    scope = {"type": "http", "headers": [(b"authorization", sent)]}
    head = RequestHead("GET", "", "", {b"authorization": sent})
    for request in (scope, head):
        assert access("read", "chats/alice/1", request) == Principal("jwt:alice")
    twice = {"type": "http", "headers": [(b"authorization", sent), (b"authorization", b"Bearer x")]}
    with pytest.raises(ProtocolError, match="not valid"):
        access("read", "chats/alice/1", twice)
    with pytest.raises(TypeError):
        access("read", "chats/alice/1", object())


@pytest.mark.parametrize(
    "patterns", [["chats/{sub}/**"], [f"{n}/*/{{sub}}/x*y/**" for n in range(20)]]
)
def test_what_is_remembered_of_a_token_is_not_larger_than_it_is_counted(
    patterns: list[str],
) -> None:
    rights = Rights(read=patterns, names=True)

    def remembered(number: int) -> Grant:
        subject = f"{number:04d}" + "s" * 200
        return Grant(f"jwt:{subject}", rights.bind({"sub": subject}))

    counted = remembered(0).size
    tracemalloc.start()
    try:
        kept = ByteCache[bytes, Grant](2**30)
        before = tracemalloc.get_traced_memory()[0]
        for number in range(200):
            kept.add(b"%032d" % number, remembered(number), counted)
        took = (tracemalloc.get_traced_memory()[0] - before) / 200
    finally:
        tracemalloc.stop()
    assert counted / 4 < took <= counted
