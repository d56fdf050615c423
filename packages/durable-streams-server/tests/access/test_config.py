"""The tables [access] and [limits] of a file: what they say, and what is wrong in them."""

import tomllib
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from durable_streams_core.errors import ProtocolError
from durable_streams_server import Access, PrefixQuota, Principal, PrincipalLimits, StreamQuota
from durable_streams_server.access.config import read_access, read_limits
from durable_streams_server.cli.access_rules import AccessRules
from durable_streams_server.cli.command import main
from durable_streams_server.http.messages import RequestHead

SECRET = "a secret of some length"

ACCESS = f"""
[[access.tokens]]
name = "ingest"
sha256 = "{sha256(SECRET.encode()).hexdigest()}"
read = ["chats/*"]
write = ["chats/*"]

[access.jwt]
issuer = "https://login.example/"
audience = "streams"
algorithms = ["RS256"]
jwks = "https://login.example/jwks.json"
leeway = 10
all = ["chats/{{sub}}/**"]

[[access.certificates]]
subject = "CN=backup,O=Example"
read = ["**"]

[access.anonymous]
read = ["public/**"]
"""

JWT = """
[access.jwt]
read = ["**"]
algorithms = ["RS256"]
issuer = "i"
audience = "a"
"""

LIMITS = """
[limits.principal]
appends-per-second = 100
bytes-per-second = 1_000_000
live-readers = 20
streams-per-hour = 60

[limits.principals."token:ingest"]
appends-per-second = 5000.5

[[limits.streams]]
path = "chats/**"
max-bytes = 10_000_000

[[limits.prefixes]]
prefix = "chats/*"
max-bytes = 100_000_000
max-streams = 1000
"""


def access_of(text: str) -> Access:
    return read_access(tomllib.loads(text)["access"])


def request(secret: str) -> RequestHead:
    return RequestHead("GET", "", "", {b"authorization": f"Bearer {secret}".encode()})


def test_a_file_says_who_may_do_what() -> None:
    access = access_of(ACCESS)
    assert access("append", "chats/1", request(SECRET)) == Principal("token:ingest")
    with pytest.raises(ProtocolError, match="may not"):
        access("delete", "chats/1", request(SECRET))


def test_a_file_sets_limits() -> None:
    limits = read_limits(tomllib.loads(LIMITS)["limits"])
    assert limits.principal == PrincipalLimits(
        appends_per_second=100, bytes_per_second=1_000_000, live_readers=20, streams_per_hour=60
    )
    assert limits.principals == {"token:ingest": PrincipalLimits(appends_per_second=5000.5)}
    assert limits.quotas == (
        StreamQuota(path="chats/**", max_bytes=10_000_000),
        PrefixQuota(prefix="chats/*", max_bytes=100_000_000, max_streams=1000),
    )
    assert read_limits({}).quotas == ()


@pytest.mark.parametrize(
    "text, says",
    [
        ("[access]", "nobody has any right"),
        ("[access]\ntokns = []", "Did you mean tokens?"),
        ("[access]\ntokens = 7", r"access.tokens must be a list of tables"),
        ('[[access.tokens]]\nname = "a"\nsecret = "0123456789abcdef"', '"a": There are no rights'),
        ('[[access.tokens]]\nname = "a"\nread = ["**"]', "\"a\": The token 'a' needs secret or"),
        ('[[access.tokens]]\nread = ["**"]', "the key name is missing"),
        ('[[access.tokens]]\nname = "a"\nraed = ["**"]', "Did you mean read?"),
        ('[[access.tokens]]\nname = "a"\nread = "**"', "read must be a list of texts"),
        ('[[access.tokens]]\nname = "a"\nread = ["a//b"]', "empty, '.' or '..' segment"),
        ('[[access.tokens]]\nname = "a"\nsecret = 7\nread = ["**"]', "secret must be a text"),
        ("[access]\njwt = 7", r"write it as \[access.jwt\]"),
        ('[access.jwt]\nread = ["**"]', "access.jwt: algorithms must be a list"),
        (
            f'{JWT}key-file = "missing.pem"',
            "key-file missing.pem cannot be read",
        ),
        (
            f'{JWT}key_file = "x"',
            "Did you mean key-file?",
        ),
        ('[[access.certificates]]\nsubject = "x"\nread = ["**"]', "CN=ingest"),
        ('[access.anonymous]\nread = ["{sub}"]', "braces"),
    ],
)
def test_a_fault_in_access_is_named(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says) as caught:
        access_of(text)
    assert str(caught.value).startswith("access")
    assert "0123456789abcdef" not in str(caught.value)


@pytest.mark.parametrize(
    "text, says",
    [
        ("[limits]\nprincpal = {}", "Did you mean principal?"),
        ("[limits.principal]\nappends = 1", "appends-per-second"),
        ("[limits.principal]\nappends_per_second = 1", "Did you mean appends-per-second?"),
        ("[limits.principal]\nappends-per-second = true", "must be a number"),
        ("[limits.principal]\nappends-per-second = nan", "positive"),
        ("[limits.principal]\nlive-readers = 1.5", "whole number"),
        ("[limits]\nprincipals = 7", "must be a table"),
        ('[[limits.streams]]\npath = "a"', "the key max-bytes is missing"),
        ('[[limits.streams]]\npath = "a"\nmax-bytes = -1', "max-bytes must be a positive"),
        ('[[limits.prefixes]]\nprefix = "a"', "needs max-bytes or max-streams"),
        ('[[limits.prefixes]]\nprefix = "a/**"\nmax-bytes = 1', "fixed number"),
    ],
)
def test_a_fault_in_limits_is_named(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says) as caught:
        read_limits(tomllib.loads(text)["limits"])
    assert str(caught.value).startswith("limits")


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["tokens", "jwt", "name", "secret", "read", "subject", "anonymous", "x"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(["tokens", "jwt", "certificates", "anonymous"]), JUNK))
def test_no_file_ends_reading_with_anything_but_a_sentence(table: Any) -> None:
    try:
        read_access(table)
    except ValueError as error:
        assert str(error)


@given(st.dictionaries(st.sampled_from(["principal", "principals", "streams", "prefixes"]), JUNK))
def test_no_limits_end_reading_with_anything_but_a_sentence(table: Any) -> None:
    try:
        read_limits(table)
    except ValueError as error:
        assert str(error)


# The command.


def rules_in(path: Path) -> AccessRules:
    return AccessRules(str(path), lambda: tomllib.loads(path.read_text()))


def test_rules_are_read_again_and_broken_ones_are_not_taken(tmp_path: Path) -> None:
    path = tmp_path / "access.toml"
    path.write_text(ACCESS + LIMITS)
    rules = rules_in(path)
    access = rules.access
    assert access is not None
    access("append", "chats/1", request(SECRET))
    path.write_text(ACCESS.replace('write = ["chats/*"]', ""))
    rules.reload()
    with pytest.raises(ProtocolError, match="may not"):
        access("append", "chats/1", request(SECRET))
    access("read", "chats/1", request(SECRET))
    assert rules.limiter.limits_of("token:ingest") == PrincipalLimits()
    for broken in ('[access.anonymous]\nread = ["a//b"]', "[limits]"):
        path.write_text(broken)
        with pytest.raises(ValueError, match=r"access"):
            rules.reload()
        access("read", "chats/1", request(SECRET))


def test_a_token_that_is_gone_from_the_file_is_not_valid_any_more(tmp_path: Path) -> None:
    path = tmp_path / "access.toml"
    path.write_text(ACCESS)
    rules = rules_in(path)
    assert rules.access is not None
    path.write_text('[access.anonymous]\nread = ["public/**"]')
    rules.reload()
    with pytest.raises(ProtocolError) as caught:
        rules.access("read", "chats/1", request(SECRET))
    assert caught.value.status == 401


@pytest.mark.parametrize(
    "options, says",
    [
        (["--access", "{file}", "--token", "x"], "entry in"),
        (["--access", "{file}", "--config", "{file}"], "leave --access out"),
        (["--access", "{broken}"], "no key 'tokns'"),
        (["--access", "{nottoml}"], "is not TOML"),
        (["--access", "{other}"], "tables [access] and [limits] only"),
        (["--tls-client-ca", "{file}"], "needs --tls-cert"),
    ],
)
def test_the_command_says_what_is_wrong_with_its_rules(
    tmp_path: Path, options: list[str], says: str
) -> None:
    files = {
        "file": ACCESS,
        "broken": "[access]\ntokns = 1",
        "nottoml": "a =",
        "other": "port = 1",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    given = [option.format(**{name: tmp_path / name for name in files}) for option in options]
    result = CliRunner().invoke(main, ["--store", "memory:", "--port", "0", *given])
    assert result.exit_code != 0
    assert says in result.output


def test_a_principal_without_its_kind_would_limit_nobody() -> None:
    with pytest.raises(ValueError, match="'token:ingest'"):
        read_limits({"principals": {"ingest": {"appends-per-second": 1}}})
