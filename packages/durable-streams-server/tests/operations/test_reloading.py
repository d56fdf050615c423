"""SIGHUP: certificates, tokens and signing keys are read again, and nothing is dropped."""

import asyncio
import re
import signal
import ssl
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command_process import ended, running
from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from server_certificates import write_certificate
from wire import Connection

from durable_streams_core.errors import ProtocolError, Unavailable
from durable_streams_server import Engine, MemoryStore, PrefixQuota
from durable_streams_server.cli.access_rules import AccessRules
from durable_streams_server.cli.command import main
from durable_streams_server.cli.secrets import ConfiguredSecrets
from durable_streams_server.frontends.mount import Mount
from durable_streams_server.frontends.servers import FRONT_ENDS, Address
from durable_streams_server.frontends.tls import Certificate
from durable_streams_server.http.exchange import Exchange
from durable_streams_server.http.messages import RequestHead
from durable_streams_server.http.options import Options
from durable_streams_server.operations.metrics import MetricsCollector
from durable_streams_server.operations.reloading import reload_all
from durable_streams_server.signing import ReadSigner

ROOT = "/v1/stream/"


@pytest.fixture
def pem(tmp_path: Path) -> Path:
    path = tmp_path / "server.pem"
    write_certificate(path, 1)
    return path


def trusting(pem: Path) -> ssl.SSLContext:
    """A client that checks nothing, so that it may look at any certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


async def connect(port: int, pem: Path, name: str | None = "localhost") -> Connection:
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", port, ssl=trusting(pem), server_hostname=name or ""
    )
    return Connection(reader, writer)


def serial_of(connection: Connection) -> int:
    """The serial number of the certificate that the server showed."""
    found = connection.writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    return x509.load_der_x509_certificate(found).serial_number


@pytest.mark.parametrize("front_end", FRONT_ENDS)
@pytest.mark.parametrize("name", ["localhost", None])
async def test_a_renewed_certificate_is_shown_to_new_connections_and_old_ones_stay(
    front_end: str, name: str | None, pem: Path
) -> None:
    certificate = Certificate(str(pem), None)
    async with Engine("memory:") as engine:
        mount = Mount(engine, Options(health=True), None)
        address = Address("127.0.0.1", 0, tls=certificate.context)
        async with FRONT_ENDS[front_end](mount, ROOT, address) as port:
            async with await connect(port, pem, name) as old:
                assert serial_of(old) == 1
                assert (await old.request("GET", "/health")).status == 200
                write_certificate(pem, 2)
                assert "valid until" in certificate.reload()
                async with await connect(port, pem, name) as new:
                    assert serial_of(new) == 2
                    assert (await new.request("GET", "/health")).status == 200
                assert (await old.request("GET", "/health")).status == 200


def nothing(pem: Path) -> None:
    pem.unlink()


def text(pem: Path) -> None:
    pem.write_text("not a certificate")


def half(pem: Path) -> None:
    content = pem.read_bytes()
    pem.write_bytes(content[: len(content) // 2])


def foreign_key(pem: Path) -> None:
    key = pem.read_bytes().partition(b"-----BEGIN CERTIFICATE")[0]
    write_certificate(pem, 3)
    shown = pem.read_bytes().partition(b"-----BEGIN CERTIFICATE")
    pem.write_bytes(key + shown[1] + shown[2])


def passphrase(pem: Path) -> None:
    content = pem.read_bytes()
    key = load_pem_private_key(content, None)
    shown = content.partition(b"-----BEGIN CERTIFICATE")
    hidden = key.private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"nobody is asked for it")
    )
    pem.write_bytes(hidden + shown[1] + shown[2])


@pytest.mark.parametrize("broken", [nothing, text, half, foreign_key, passphrase])
async def test_a_broken_certificate_keeps_the_old_one_and_says_so(
    broken: Callable[[Path], None], pem: Path, caplog: pytest.LogCaptureFixture
) -> None:
    certificate = Certificate(str(pem), None)
    broken(pem)
    assert not reload_all([certificate])
    assert f"the certificate {pem} is kept as it was: {pem} must hold a" in caplog.text
    async with Engine("memory:") as engine:
        address = Address("127.0.0.1", 0, tls=certificate.context)
        mount = Mount(engine, Options(health=True), None)
        async with FRONT_ENDS["standalone"](mount, ROOT, address) as port:
            async with await connect(port, pem) as connection:
                assert serial_of(connection) == 1
                assert (await connection.request("GET", "/health")).status == 200


def test_a_certificate_that_has_expired_is_taken_and_said_to_be(pem: Path) -> None:
    certificate = Certificate(str(pem), None)
    write_certificate(pem, 2, days=-1)
    assert "has expired" in certificate.reload()


def expiry_in(collector: MetricsCollector) -> float | None:
    """When the certificate expires, as the metrics say."""
    for family in collector.collect():
        if family.name == "durable_streams_tls_certificate_not_after_timestamp_seconds":
            return family.samples[0].value if family.samples else None
    raise AssertionError("the metric is not there")


def test_the_metrics_say_when_the_certificate_in_force_expires(
    pem: Path, memory: MemoryStore
) -> None:
    certificate = Certificate(str(pem), None)
    collector = MetricsCollector(Engine(memory), certificate=certificate)
    first = x509.load_pem_x509_certificate(pem.read_bytes()).not_valid_after_utc.timestamp()
    assert expiry_in(collector) == first
    write_certificate(pem, 2, days=30)
    # The renewed file is not in force before it was reloaded.
    assert expiry_in(collector) == first
    certificate.reload()
    renewed = x509.load_pem_x509_certificate(pem.read_bytes()).not_valid_after_utc.timestamp()
    assert expiry_in(collector) == renewed > first
    pem.write_text("broken")
    assert not reload_all([certificate])
    assert expiry_in(collector) == renewed


def test_without_https_no_certificate_is_said_to_expire(memory: MemoryStore) -> None:
    assert expiry_in(MetricsCollector(Engine(memory))) is None


async def test_the_command_shows_the_expiry_of_its_certificate(pem: Path) -> None:
    options = ("--port", "0", "--metrics", "--tls-cert", str(pem))
    until = x509.load_pem_x509_certificate(pem.read_bytes()).not_valid_after_utc
    async with running(*options) as (_, port, _):
        async with await connect(port, pem) as connection:
            page = (await connection.request("GET", "/metrics")).body.decode()
    found = re.search(r"(?m)^durable_streams_tls_certificate_not_after\w+ (\S+)$", page)
    assert found is not None
    assert float(found[1]) == until.timestamp()


class Part:
    """Something to reload, which fails as the test says."""

    def __init__(self, error: Exception | None) -> None:
        self.label = "a part"
        self.error = error
        self.reloaded = 0

    def reload(self) -> str:
        if self.error is not None:
            raise self.error
        self.reloaded += 1
        return ""


@pytest.mark.parametrize("error", [ValueError("bad"), OSError(2, "gone"), RuntimeError("broken")])
def test_a_part_that_fails_does_not_keep_the_others_from_being_reloaded(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    good = Part(None)
    assert not reload_all([Part(error), good])
    assert good.reloaded == 1
    assert "a part is kept as it was" in caplog.text


# The command.


async def status(port: int, target: str, token: str | None = None) -> int:
    fields = {} if token is None else {"authorization": f"Bearer {token}"}
    async with await Connection.to(port) as connection:
        return (await connection.request("GET", ROOT + target, fields)).status


async def hang_up(process: Any, until: bytes) -> str:
    """Send SIGHUP, and wait for a line of the log."""
    process.send_signal(signal.SIGHUP)
    async with asyncio.timeout(60):
        said: bytes = await process.stderr.readuntil(until)
    return said.decode()


def signed(key: str) -> str:
    return "a?" + ReadSigner([key]).sign("a", 60)


async def test_token_and_signing_keys_of_the_file_are_taken_over(tmp_path: Path) -> None:
    file = tmp_path / "server.toml"
    file.write_text(f'token = "first"\nsigning-key = ["{"1" * 16}"]\nport = 0\n')
    async with running("--config", str(file)) as (process, port, _):
        async with await Connection.to(port) as kept:
            first = {"authorization": "Bearer first", "content-type": "text/plain"}
            assert (await kept.request("PUT", ROOT + "a", first)).status == 201
            assert await status(port, signed("1" * 16)) == 200
            file.write_text(f'token = "second"\nsigning-key = ["{"2" * 16}"]\nport = 1\n')
            said = await hang_up(process, b"everything was reloaded")
            assert "port will change at the next start" in said
            # The same connection goes on, and its next request needs the new token.
            assert (await kept.request("GET", ROOT + "a", first)).status == 401
        assert await status(port, "a", "second") == 200
        assert await status(port, signed("1" * 16)) == 403
        assert await status(port, signed("2" * 16)) == 200


@pytest.mark.parametrize(
    "broken, says",
    [
        ("token = ", "is not TOML"),
        ('token = ""\n', "The token is empty"),
        ("", "the token is gone from it"),
        ('token = "second"\nsigning-key = ["short"]', "A signing key has at least 16 bytes"),
        ('token = "second"\nprot = 1', "Did you mean port?"),
        ('token = "second"\n[access]\n', "a table [access] now"),
        ('token = "second"\n[limits]\n', "a table [limits] now"),
    ],
)
def test_a_broken_file_keeps_the_old_secrets_and_says_so(
    broken: str, says: str, tmp_path: Path, memory: MemoryStore
) -> None:
    file = tmp_path / "server.toml"
    file.write_text(f'token = "first"\nsigning-key = ["{"1" * 16}"]\n')
    settings = main.make_context("durable-streams-server", ["--config", str(file)]).params
    engine = Engine(memory, signing_keys=settings["signing_key"])
    mount = Mount(engine, Options(token=settings["token"]), None)
    part = ConfiguredSecrets(settings["config"], mount)
    file.write_text(broken)
    signer = engine.signer
    with pytest.raises(ValueError, match=re.escape(says)):
        part.reload()
    assert engine.signer is signer
    asked = RequestHead("GET", "a", "", {b"authorization": b"Bearer first"}, root=ROOT)
    assert isinstance(mount.handler.begin(asked), Exchange)


def test_secrets_of_flags_and_variables_stay(tmp_path: Path, memory: MemoryStore) -> None:
    file = tmp_path / "server.toml"
    file.write_text('token = "of the file"')
    arguments = ["--config", str(file), "--token", "of a flag"]
    settings = main.make_context("durable-streams-server", arguments).params
    mount = Mount(Engine(memory), Options(token=settings["token"]), None)
    file.write_text('token = "another"')
    ConfiguredSecrets(settings["config"], mount).reload()
    asked = RequestHead("GET", "a", "", {b"authorization": b"Bearer of a flag"}, root=ROOT)
    assert isinstance(mount.handler.begin(asked), Exchange)


def test_a_token_beside_access_rules_is_refused_as_at_the_start(
    tmp_path: Path, memory: MemoryStore
) -> None:
    file = tmp_path / "server.toml"
    file.write_text("port = 1\n")
    settings = main.make_context("durable-streams-server", ["--config", str(file)]).params
    mount = Mount(Engine(memory), Options(authorize=lambda *_: True), None)
    file.write_text('token = "a token for everything"\n')
    with pytest.raises(ValueError, match="access rules are in force"):
        ConfiguredSecrets(settings["config"], mount).reload()
    asked = RequestHead("GET", "a", "", {}, root=ROOT)
    assert isinstance(mount.handler.begin(asked), Exchange)


# Quotas, which have to be counted.


class SlowListing(MemoryStore):
    """A store whose listings wait until they may go on, and then may fail."""

    def __init__(self) -> None:
        super().__init__()
        self.may_go_on = asyncio.Event()
        self.may_go_on.set()
        self.error: Exception | None = None

    async def list(self, prefix: str, after: str, limit: int) -> Any:
        await self.may_go_on.wait()
        if self.error is not None:
            raise self.error
        return await super().list(prefix, after, limit)


def rules_in(path: Path) -> AccessRules:
    return AccessRules(str(path), lambda: tomllib.loads(path.read_text()))


def quota(size: int) -> str:
    return f'[[limits.prefixes]]\nprefix = "p"\nmax-bytes = {size}\n'


async def fits(engine: Engine, size: int) -> bool:
    try:
        await engine.append("p/a", b"x" * size)
    except ProtocolError as error:
        assert error.code == "prefix-full"
        return False
    return True


async def test_quotas_are_said_to_be_counted_until_they_are_in_force(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    path = tmp_path / "access.toml"
    path.write_text("[limits]\n")
    store = SlowListing()
    rules = rules_in(path)
    async with Engine(store) as engine:
        rules.serve(engine)
        await engine.create("p/a", data=b"x" * 50)
        store.may_go_on.clear()
        path.write_text(quota(60))
        assert "is being counted" in rules.reload()
        settled = asyncio.create_task(rules.settled())
        await asyncio.sleep(0)
        # Only what is added from now on counts meanwhile.
        assert await fits(engine, 5)
        assert not await fits(engine, 100)
        # The same file again does not begin anew.
        assert "is being counted" in rules.reload()
        assert not settled.done()
        assert "in force" not in caplog.text
        store.may_go_on.set()
        assert await settled
        assert caplog.text.count("are counted and in force") == 1
        assert not await fits(engine, 6)
        assert await fits(engine, 5)
        assert rules.reload() == ""


async def test_quotas_that_cannot_be_counted_are_said_to_be_and_counted_by_the_next_reload(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "access.toml"
    path.write_text("[limits]\n")
    store = SlowListing()
    rules = rules_in(path)
    async with Engine(store) as engine:
        rules.serve(engine)
        await engine.create("p/a", data=b"x" * 50)
        path.write_text(quota(60))
        store.error = Unavailable("Try again.", code="away")
        rules.reload()
        assert not await rules.settled()
        assert "could not be counted; SIGHUP tries again" in caplog.text
        store.error = None
        assert "is being counted" in rules.reload()
        assert await rules.settled()
        assert not await fits(engine, 11)


async def test_quotas_that_change_while_others_are_counted_are_counted_themselves(
    tmp_path: Path,
) -> None:
    store = SlowListing()
    async with Engine(store) as engine:
        await engine.create("p/a", data=b"x" * 50)
        store.may_go_on.clear()
        first = asyncio.create_task(engine.set_quotas([PrefixQuota(prefix="q", max_bytes=1)]))
        await asyncio.sleep(0)
        second = asyncio.create_task(engine.set_quotas([PrefixQuota(prefix="p", max_bytes=60)]))
        await asyncio.sleep(0)
        store.error = Unavailable("Try again.", code="away")
        store.may_go_on.set()
        await asyncio.gather(first, second, return_exceptions=True)
        store.error = None
        await engine.set_quotas([PrefixQuota(prefix="p", max_bytes=60)])
        assert not await fits(engine, 11)


async def test_everything_is_said_to_be_reloaded_only_behind_what_had_to_be_counted(
    tmp_path: Path,
) -> None:
    path = tmp_path / "access.toml"
    path.write_text("[limits]\n")
    async with running("--port", "0", "--access", str(path)) as (process, _, _):
        path.write_text(quota(60))
        said = await hang_up(process, b"everything was reloaded")
        assert said.index("is being counted") < said.index("are counted and in force")
        assert "counted" not in await hang_up(process, b"everything was reloaded")


# Secrets in the log.


async def test_secrets_of_before_and_after_a_reload_are_taken_out_of_the_log(
    tmp_path: Path,
) -> None:
    access, file = tmp_path / "access.toml", tmp_path / "server.toml"

    def write(number: int) -> list[str]:
        names = [f"{kind}-s3cret-{number}-of-some-length" for kind in ("rule", "jwt", "key")]
        access.write_text(
            f'[[access.tokens]]\nname = "a"\nsecret = "{names[0]}"\nall = ["**"]\n'
            f'[access.jwt]\nissuer = "i"\naudience = "a"\nalgorithms = ["HS256"]\n'
            f'secret = "{names[1]}-{names[1]}"\nread = ["x"]\n'
        )
        file.write_text(f'signing-key = ["{names[2]}"]\nport = 0\n')
        return [names[0], f"{names[1]}-{names[1]}", names[2]]

    secrets = write(1)
    options = ("--config", str(file), "--access", str(access), "--access-log")
    async with running(*options) as (process, port, _):
        secrets += write(2)
        await hang_up(process, b"everything was reloaded")
        for secret in secrets:
            await status(port, secret)
        _, _, err = await ended(process)
    assert err.count("path=/v1/stream/***") == len(secrets)
    assert "s3cret" not in err
