"""Settings from a URL or a redis-py client: the servers, and how to connect to them.

A client is read for its settings and otherwise left alone: the store makes its own connections,
without redis-py's retries and with raw replies, so it neither changes nor closes what it was given.

URLs, with the store's own options in the query (:data:`OPTIONS`) and redis-py's beside them:

    redis://[user:password@]host[:port][/db]
    rediss://…                                   the same over TLS
    redis+sentinel://[user:password@]host[:port][,host[:port]…]/service[/db]
    redis+cluster://[user:password@]host[:port][,host[:port]…]
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

import redis
import redis.asyncio
from redis.asyncio.connection import (
    AbstractConnection,
    Connection,
    SSLConnection,
    UnixDomainSocketConnection,
    parse_url,
)
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from durable_streams_core.errors import StoreError

OPTIONS: Final = ("prefix", "shards", "durability", "connections", "timeout")
"""The options of the store itself in the query of a URL."""

_KEPT: Final = frozenset(
    (
        "host", "port", "path", "db", "username", "password", "credential_provider", "client_name",
        "socket_keepalive", "socket_keepalive_options", "socket_type", "driver_info",
    )
)  # fmt: skip

_DEFAULT_PORT: Final = 6379
_SENTINEL_PORT: Final = 26379


@dataclass(frozen=True, slots=True)
class Address:
    """One server and how to connect to it. ``arguments`` are those of a redis-py connection."""

    arguments: Mapping[str, Any] = field(repr=False)
    tls: bool = False

    @property
    def name(self) -> str:
        """What to call it in messages."""
        own = self.arguments
        return str(own["path"]) if "path" in own else f"{self.host}:{self.port}"

    @property
    def host(self) -> str:
        """The host name or address."""
        return str(self.arguments.get("host", "localhost"))

    @property
    def port(self) -> int:
        """The TCP port."""
        return int(self.arguments.get("port", _DEFAULT_PORT))

    def at(self, host: str, port: int) -> "Address":
        """Another server, reached in the same way."""
        return replace(self, arguments={**self.arguments, "host": host, "port": port})

    def connection(self, timeout: float) -> AbstractConnection:
        """A connection that is not open yet, and that repeats nothing."""
        kind: type[AbstractConnection] = Connection
        if "path" in self.arguments:
            kind = UnixDomainSocketConnection
        elif self.tls:
            kind = SSLConnection
        return kind(
            **self.arguments,
            protocol=2,
            retry=Retry(NoBackoff(), 0),
            # The time limit is one for a whole pipeline, and set where that is sent.
            socket_timeout=None,
            socket_connect_timeout=timeout,
        )


@dataclass(frozen=True, slots=True)
class Settings:
    """``kind`` is ``single``, ``sentinel`` or ``cluster``; ``address`` says how to connect to what
    is found through ``seeds``.
    """

    kind: str
    address: Address
    seeds: Sequence[Address] = ()
    service: str = ""


def settings_of(source: object) -> Settings:
    """Read the settings of a URL or of a redis-py client, sync or async.

    Raises :class:`StoreError` for what is neither, and for a URL that cannot be understood.
    """
    if isinstance(source, str):
        return _from_url(source)
    if isinstance(source, redis.asyncio.RedisCluster | redis.RedisCluster):
        # Both keep them in the same place; only one of them declares it.
        nodes: Any = source.nodes_manager
        address = _address(nodes.connection_kwargs)
        seeds = [address.at(node.host, int(node.port)) for node in nodes.startup_nodes.values()]
        return Settings("cluster", address, seeds)
    if isinstance(source, redis.asyncio.Redis | redis.Redis):
        pool: Any = source.connection_pool
        address = _address(pool.connection_kwargs, pool.connection_class)
        manager = getattr(pool, "sentinel_manager", None)
        if manager is None:
            return Settings("single", address)
        if not pool.is_master:
            raise StoreError(
                "The client given is for replicas: use master_for instead of slave_for."
            )
        seeds = [
            _address(each.connection_pool.connection_kwargs, each.connection_pool.connection_class)
            for each in manager.sentinels
        ]
        return Settings("sentinel", address, seeds, pool.service_name)
    raise StoreError(
        f"A {type(source).__name__} is no source of connections: "
        "give a URL such as redis://localhost or a client of redis-py."
    )


def _address(arguments: Mapping[str, Any], connection_class: object = None) -> Address:
    kind = connection_class or arguments.get("connection_class")
    kept = {
        name: value
        for name, value in arguments.items()
        if (name in _KEPT or name.startswith("ssl_")) and value is not None
    }
    # Sync and async have classes of their own, and Sentinel has more; the name tells them apart.
    tls = "SSL" in getattr(kind, "__name__", "") or bool(arguments.get("ssl"))
    return Address(kept, tls)


def split_options(url: str) -> tuple[str, dict[str, str]]:
    """The URL without the store's own options, and those."""
    # urlsplit refuses an address in brackets among several hosts.
    place, mark, query = url.partition("?")
    pairs = parse_qsl(query, keep_blank_values=True)
    own = {name: value for name, value in pairs if name in OPTIONS}
    rest = urlencode([(name, value) for name, value in pairs if name not in OPTIONS])
    return f"{place}{mark if rest else ''}{rest}", own


def _from_url(url: str) -> Settings:
    scheme, colon, rest = url.partition(":")
    scheme = scheme.lower()
    if not colon or scheme not in ("redis", "rediss", "unix", "redis+sentinel", "redis+cluster"):
        raise StoreError(f"{scheme}: is no scheme of Redis. Use redis://HOST, for example.")
    try:
        if scheme in ("redis", "rediss", "unix"):
            parsed: Mapping[str, Any] = parse_url(f"{scheme}:{rest}")
            return Settings("single", _address(parsed, parsed.get("connection_class")))
        return _from_many(scheme, rest.removeprefix("//"))
    except ValueError as error:
        raise StoreError(f"The URL of the Redis store cannot be read: {error}.") from None


def _from_many(scheme: str, rest: str) -> Settings:
    place, mark, query = rest.partition("?")
    netloc, _, path = place.partition("/")
    credentials, _, hosts = netloc.rpartition("@")
    user, _, password = credentials.partition(":")
    arguments: dict[str, Any] = dict(parse_url(f"redis://{mark}{query}"))
    tls = arguments.pop("tls", "").lower() in ("1", "true", "yes")
    if user:
        arguments["username"] = unquote(user)
    if password:
        arguments["password"] = unquote(password)
    default = _DEFAULT_PORT if scheme == "redis+cluster" else _SENTINEL_PORT
    pairs = [_host_and_port(each, default) for each in hosts.split(",") if each]
    if not pairs:
        raise ValueError("it names no host")
    if scheme == "redis+cluster":
        address = replace(_address(arguments), tls=tls)
        return Settings("cluster", address, [address.at(*pair) for pair in pairs])
    service, _, database = path.strip("/").partition("/")
    if not service:
        raise ValueError("it names no service, as in redis+sentinel://host:26379/mymaster")
    if database:
        arguments["db"] = int(database)
    # The Sentinels have credentials of their own, and certificates of the same authority.
    seed_arguments = {name: arguments[name] for name in arguments if name.startswith("ssl_")}
    for name in ("username", "password"):
        if f"sentinel_{name}" in arguments:
            seed_arguments[name] = arguments.pop(f"sentinel_{name}")
    address = replace(_address(arguments), tls=tls)
    seed = replace(_address(seed_arguments), tls=tls)
    return Settings("sentinel", address, [seed.at(*pair) for pair in pairs], unquote(service))


def _host_and_port(text: str, default: int) -> tuple[str, int]:
    parts = urlsplit(f"//{text}")
    if not parts.hostname:
        raise ValueError(f"{text!r} is no host")
    return parts.hostname, parts.port or default
