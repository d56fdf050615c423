"""What must be so before a store starts, each a sentence if it is not."""

import ssl
from collections.abc import Sequence

from redis.crc import key_slot
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
)

from durable_streams_core.errors import StoreError
from durable_streams_redis.deployments import Deployment
from durable_streams_redis.durability import Durability
from durable_streams_redis.schema import (
    DEFAULT_SHARDS,
    Schema,
    foreign_type,
    parse_record,
    record_key,
    record_value,
)
from durable_streams_redis.scripts import LOAD, pack
from durable_streams_redis.servers import Reply, Server, Unreachable

OLDEST = (7, 0)


async def check_servers(deployment: Deployment, durability: Durability) -> None:
    """Version, role, eviction and persistence of every master; loads the scripts."""
    try:
        servers = await deployment.masters()
        for server in servers:
            info, *loaded = await server.execute([pack(b"INFO"), *LOAD])
            told = _parse_info(server, info)
            _check_version(server, told)
            _check_role(server, told)
            await _check_eviction(server, told)
            await _check_durability(server, told, durability)
            for reply in loaded:
                _raise(server, reply)
    except Unreachable as error:
        raise unreachable(error) from None


async def agree_on_shards(deployment: Deployment, prefix: str, wanted: int | None) -> int:
    """The number of shards as written by the first process that ever started on this prefix."""
    key = record_key(prefix)
    slot = key_slot(key)
    for command in (
        pack(b"GET", key),
        pack(b"SET", key, record_value(wanted or DEFAULT_SHARDS), b"NX"),
        pack(b"GET", key),
    ):
        reply = await deployment.ask(slot, command)
        if isinstance(reply, Unreachable):
            raise unreachable(reply)
        if isinstance(reply, Exception) and "WRONGTYPE" in str(reply):
            parse_record(key, None)
        _raise(await deployment.server_of(slot), reply)
        if isinstance(reply, bytes) and reply != b"OK":
            shards = parse_record(key, reply)
            if wanted is not None and wanted != shards:
                raise StoreError(
                    f"The data under {prefix!r} has {shards} shards for ever and {wanted} were "
                    f"asked for: ask for {shards}, or for none, or use another prefix."
                )
            return shards
    raise StoreError(f"{key.decode()} was removed while this process started: start it again.")


async def check_keys(deployment: Deployment, schema: Schema) -> None:
    """That no other program keeps something where this store will."""
    for shard in schema.shards:
        for key, wanted in shard.fixed_keys():
            reply = await deployment.ask(shard.slot, pack(b"TYPE", key))
            if isinstance(reply, Unreachable):
                raise unreachable(reply)
            _raise(await deployment.server_of(shard.slot), reply)
            found = reply.decode()
            if found not in ("none", wanted):
                raise foreign_type(key, found, wanted)


def unreachable(error: Unreachable) -> StoreError:
    """What to say when a server cannot be asked at all."""
    cause = error.__cause__
    if isinstance(cause, AuthenticationError | AuthorizationError):
        return StoreError(f"Redis refuses the user or password ({error}): check the credentials.")
    if _is_about_trust(cause):
        return StoreError(
            f"The certificate of Redis cannot be trusted ({error}): name the file of the CA that "
            "issued it as ssl_ca_certs, and use the host that it was issued for."
        )
    # A port that speaks TLS, or wants a certificate, says nothing to those who come without.
    return StoreError(
        f"Redis cannot be reached ({error}): check the address and whether it speaks TLS, or start it."
    )


def _is_about_trust(error: BaseException | None) -> bool:
    """Whether the server's certificate is behind an error, which redis-py makes another one of."""
    while error is not None and not isinstance(error, ssl.SSLCertVerificationError):
        error = error.__cause__ or error.__context__
    return error is not None


def _raise(server: Server, reply: Reply) -> None:
    if not isinstance(reply, Exception):
        return
    if isinstance(reply, AuthenticationError | AuthorizationError):
        sentence = "refuses the user or password: check the credentials"
    elif isinstance(reply, NoPermissionError):
        sentence = f"does not allow this user what the store needs ({reply}): change its ACL"
    elif isinstance(reply, ReadOnlyError):
        sentence = "is a read-only replica: use the address of its master"
    elif isinstance(reply, OutOfMemoryError):
        sentence = "has no memory left to start with: raise maxmemory or delete something"
    else:
        sentence = f"cannot be used: {reply}"
    raise StoreError(f"{server.name} {sentence}.")


def _parse_info(server: Server, reply: Reply) -> dict[str, str]:
    _raise(server, reply)
    lines: Sequence[str] = reply.decode(errors="replace").splitlines()
    return {name: value for name, colon, value in (line.partition(":") for line in lines) if colon}


def _check_version(server: Server, told: dict[str, str]) -> None:
    version = told.get("redis_version", "")
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdecimal())
    if numbers < OLDEST:
        raise StoreError(
            f"{server.name} runs Redis {version or '?'}: this store needs Redis 7.0 or Valkey."
        )


def _check_role(server: Server, told: dict[str, str]) -> None:
    if told.get("role") != "master":
        raise StoreError(
            f"{server.name} is a read-only replica: use the address of its master"
            f" ({told.get('master_host', '?')}:{told.get('master_port', '?')})."
        )


async def _check_eviction(server: Server, told: dict[str, str]) -> None:
    policy = told.get("maxmemory_policy")
    if policy is None:
        policy = await _config(server, b"maxmemory-policy")
    if policy != "noeviction":
        raise StoreError(
            f"{server.name} has maxmemory-policy {policy}, which throws streams away when memory "
            "is short: set it to noeviction."
        )


async def _check_durability(server: Server, told: dict[str, str], durability: Durability) -> None:
    aof = told.get("aof_enabled") == "1"
    needs_aof = durability.name in ("everysec", "always") or durability.name.startswith("waitaof:1")
    if needs_aof and not aof:
        raise StoreError(
            f"{server.name} keeps no append-only file, which durability {durability.name} needs: "
            "set appendonly to yes, or choose another durability."
        )
    if durability.name in ("everysec", "always"):
        policy = await _config(server, b"appendfsync")
        if policy not in ("always", durability.name):
            raise StoreError(
                f"{server.name} has appendfsync {policy}, which is not what durability "
                f"{durability.name} promises: set it to {durability.name}."
            )
    if durability.name.startswith("waitaof"):
        (reply,) = await server.execute([pack(b"WAITAOF", b"0", b"0", b"1")])
        if isinstance(reply, Exception):
            raise StoreError(
                f"{server.name} has no WAITAOF, which durability {durability.name} needs: "
                "use Redis 7.2 or Valkey, or choose another durability."
            )


async def _config(server: Server, name: bytes) -> str:
    (reply,) = await server.execute([pack(b"CONFIG", b"GET", name)])
    _raise(server, reply)
    return reply[1].decode() if len(reply) == 2 else "unknown"
