"""Runs a server with the settings of the command until it is told to stop."""

import asyncio
import contextlib
import logging
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final, TypeVar

import click
import msgspec

from durable_streams_server.cli.access_rules import access_of, access_rules_of
from durable_streams_server.cli.hiding import without_secrets
from durable_streams_server.cli.listening import address_of, certificate_of, shown_url
from durable_streams_server.cli.operating import operating
from durable_streams_server.cli.option_groups import Settings
from durable_streams_server.cli.requests import options_of
from durable_streams_server.cli.rolling import take, take_address
from durable_streams_server.cli.secrets import ConfiguredSecrets
from durable_streams_server.cli.streams import limits_of, subscriptions_of
from durable_streams_server.engine.engine import Engine
from durable_streams_server.frontends.mount import Mount
from durable_streams_server.frontends.servers import FRONT_ENDS
from durable_streams_server.http.targets import parse_root
from durable_streams_server.operations.clients import TrustedProxies
from durable_streams_server.operations.reloading import Reloadable, reload_all

log = logging.getLogger("durable_streams_server.cli")

_Result = TypeVar("_Result")

QUICK_START_SECONDS: Final = 1.5
"""A store that opens faster is open before the server listens: a proxy that tries one server after
another then never meets one that is starting."""


async def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT, then drain and end cleanly."""
    signals = Signals()
    try:
        rules = access_rules_of(settings)
        options = msgspec.structs.replace(
            options_of(settings),
            authorize=access_of(settings, rules),
            limiter=None if rules is None else rules.limiter,
            client_of=TrustedProxies(settings["trusted_proxy"]).client_at,
        )
        root = parse_root(settings["root"])
        if root == "/":
            log.warning(
                "With --root / every path is that of a stream: /health and /ready are none."
            )
        engine = Engine(
            settings["store"],
            limits=limits_of(settings),
            subscriptions=subscriptions_of(settings),
            signing_keys=settings["signing_key"],
            quotas=() if rules is None else rules.quotas,
        )
    except ValueError as error:
        raise click.ClickException(str(error)) from error
    mount = Mount(engine, options, None)
    certificate = certificate_of(settings)
    address = address_of(settings, certificate)
    if certificate is not None:
        signals.reloadable.append(certificate)
    if rules is not None:
        rules.serve(engine)
        signals.settled = rules.settled
        signals.reloadable.append(rules)
    if settings["config"] is not None:
        signals.reloadable.append(ConfiguredSecrets(settings["config"], mount))
    async with AsyncExitStack() as stack:
        stack.push_async_callback(engine.stop)
        await stack.enter_async_context(operating(settings, mount, root, certificate))
        stopping = await stack.enter_async_context(_running(signals.stop.wait()))
        opening = await stack.enter_async_context(_running(take(engine.start, settings["wait"])))
        # A server that shares its listener with another accepts nothing that it cannot answer yet.
        quick = None if address.listeners else QUICK_START_SECONDS
        if await _first(opening, stopping, seconds=quick) is stopping:
            return
        listening = await stack.enter_async_context(
            _running(take_address(address.open, opening, settings["wait"]))
        )
        if await _first(listening, stopping) is stopping:
            return
        address = msgspec.structs.replace(address, listeners=tuple(listening.result()))
        front_end = FRONT_ENDS[settings["front_end"]]
        port = await stack.enter_async_context(front_end(mount, root, address))
        if await _first(opening, stopping) is stopping:
            return
        click.echo(
            f"Serving durable streams from {without_secrets(settings['store'])} "
            f"at {shown_url(address, port, settings['public_url'])}{root}"
        )
        await stopping
        delay = settings["drain_delay"]
        mount.drain()
        if delay:
            log.info("draining for %.0f s; a second signal ends that", delay)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(delay):
                    await signals.stop_now.wait()


class Signals:
    """The signals of the process, as the server takes them. ``reloadable`` is what SIGHUP reloads.

    ``stop`` is set by the first SIGTERM or SIGINT, ``stop_now`` by the second.
    """

    def __init__(self) -> None:
        self.stop = asyncio.Event()
        self.stop_now = asyncio.Event()
        self.reloadable: list[Reloadable] = []
        self.settled: Callable[[], Awaitable[bool]] | None = None
        """Waits until what was reloaded is in force."""
        self._settling: set[asyncio.Task[None]] = set()
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGTERM, signal.SIGINT):
            with contextlib.suppress(NotImplementedError):
                loop.add_signal_handler(signum, self._stop)
        if hasattr(signal, "SIGHUP"):
            loop.add_signal_handler(signal.SIGHUP, self._reload)

    def _stop(self) -> None:
        (self.stop_now if self.stop.is_set() else self.stop).set()

    def _reload(self) -> None:
        # The end of a terminal or of a login must not end the server either.
        if not self.reloadable:
            log.info("SIGHUP: there is nothing to reload")
        elif reload_all(self.reloadable):
            settling = asyncio.create_task(self._settle())
            self._settling.add(settling)
            settling.add_done_callback(self._settling.discard)

    async def _settle(self) -> None:
        if self.settled is None or await self.settled():
            log.info("SIGHUP: everything was reloaded")


@asynccontextmanager
async def _running(work: Coroutine[Any, Any, _Result]) -> AsyncIterator[asyncio.Task[_Result]]:
    """Work in a task, which is cancelled at the end."""
    task = asyncio.create_task(work)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])


async def _first(
    task: asyncio.Task[Any], stopping: asyncio.Task[Any], *, seconds: float | None = None
) -> asyncio.Task[Any] | None:
    """The one of the two that ends first, None if that takes longer. Raises what ``task`` did."""
    await asyncio.wait([task, stopping], timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    if stopping.done():
        return stopping
    if not task.done():
        return None
    task.result()
    return task
