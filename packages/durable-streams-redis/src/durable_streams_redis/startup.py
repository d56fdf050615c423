"""Checks before a store starts, each with a sentence for when it fails."""

import logging
import ssl

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
from durable_streams_redis.schema import Schema, foreign_type
from durable_streams_redis.scripts import LOAD, pack
from durable_streams_redis.servers import (
    Lost,
    NotMaster,
    Reply,
    Server,
    Unreachable,
    parse_info,
)

logger = logging.getLogger(__name__)

OLDEST = (7, 0)
LARGE_NODE_BYTES = 1024
"""With a larger `stream-node-max-bytes` than this, each small stream wastes memory."""


async def check_servers(deployment: Deployment, durability: Durability) -> None:
    """Check version, eviction and persistence of every master, and load the scripts."""
    for server in await deployment.masters():
        info = await check_server(server, durability)
        for reply in await server.send(LOAD):
            raise_error(server, reply)
        await _warn_of_weak_settings(server, info, durability)


async def check_server(server: Server, durability: Durability) -> dict[str, str]:
    """Check version, eviction and persistence of one server; returns its INFO.

    Raises :class:`StoreError` and :class:`Unreachable`.
    """
    (reply,) = await server.send([pack(b"INFO")])
    raise_error(server, reply)
    info = parse_info(reply)
    _check_version(server, info)
    await _check_eviction(server, info)
    await _check_durability(server, info, durability)
    return info


async def check_keys(deployment: Deployment, schema: Schema) -> None:
    """Check that no other program keeps something where this store will."""
    keys = [(shard, *key) for shard in schema.shards for key in shard.fixed_keys()]
    replies, _ = await deployment.send_all(
        [(shard.slot, pack(b"TYPE", key)) for shard, key, _ in keys]
    )
    for (shard, key, wanted), reply in zip(keys, replies, strict=True):
        if isinstance(reply, Unreachable):
            raise reply
        raise_error(await deployment.server_of(shard.slot), reply)
        found = reply.decode()
        if found not in ("none", wanted):
            raise foreign_type(key, found, wanted)


def unreachable(error: Unreachable) -> StoreError:
    """What to say when a server cannot be asked at all."""
    cause = error.__cause__
    if isinstance(error, NotMaster):
        return StoreError(f"{error}: use the address of its master.")
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


def raise_error(server: Server, reply: Reply) -> None:
    """Raise what an error reply means for a store that starts. Raises :class:`Unreachable` where
    the reply never came.
    """
    if isinstance(reply, Lost):
        raise Unreachable(str(reply))
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


def _check_version(server: Server, info: dict[str, str]) -> None:
    version = info.get("redis_version", "")
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdecimal())
    if numbers < OLDEST:
        raise StoreError(
            f"{server.name} runs Redis {version or '?'}: this store needs Redis 7.0 or Valkey."
        )


async def _check_eviction(server: Server, info: dict[str, str]) -> None:
    policy = info.get("maxmemory_policy")
    if policy is None:
        policy = await _config(server, b"maxmemory-policy")
    if policy != "noeviction":
        raise StoreError(
            f"{server.name} has maxmemory-policy {policy}, which throws streams away when memory "
            "is short: set it to noeviction."
        )


async def _check_durability(server: Server, info: dict[str, str], durability: Durability) -> None:
    aof = info.get("aof_enabled") == "1"
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
        (reply,) = await server.send([pack(b"WAITAOF", b"0", b"0", b"1")])
        if isinstance(reply, Exception):
            raise StoreError(
                f"{server.name} has no WAITAOF, which durability {durability.name} needs: "
                "use Redis 7.2 or Valkey, or choose another durability."
            )


async def _config(server: Server, name: bytes) -> str:
    (reply,) = await server.send([pack(b"CONFIG", b"GET", name)])
    raise_error(server, reply)
    return reply[1].decode() if len(reply) == 2 else "unknown"


async def _warn_of_weak_settings(
    server: Server, info: dict[str, str], durability: Durability
) -> None:
    """Log settings with which the store works, but not as well as most expect."""
    node_bytes = await _config(server, b"stream-node-max-bytes")
    if node_bytes.isdecimal() and (int(node_bytes) == 0 or int(node_bytes) > LARGE_NODE_BYTES):
        logger.info(
            "%s has stream-node-max-bytes %s, so that the first message of each stream takes that "
            "much memory: 256 suits streams of small messages.",
            server.name,
            node_bytes,
        )
    replicas = int(info.get("connected_slaves", "0"))
    if durability.name.startswith("wait:") and durability.wanted[0] < replicas:
        logger.warning(
            "%s has %d replicas and durability %s waits for fewer: a failover to one of the others "
            "loses acknowledged appends. Use wait:%d.",
            server.name,
            replicas,
            durability.name,
            replicas,
        )
