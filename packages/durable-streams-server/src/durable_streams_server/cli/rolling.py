"""The options of starting and stopping beside other servers, and how a start waits for them."""

import asyncio
import errno
import logging
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import click

from durable_streams_core.errors import StoreInUse
from durable_streams_server.cli.option_groups import OptionGroup

log = logging.getLogger("durable_streams_server.cli")

RETRY_SECONDS: Final = 0.05
"""Time between two attempts to take what another process has."""

ROLLING: Final = OptionGroup(
    "Rolling updates",
    [
        click.Option(
            ["--wait"],
            default=0.0,
            type=click.FloatRange(0, 86_400),
            metavar="SECONDS",
            help="How long to wait for another process that has the store's directory or the "
            "port, instead of giving up.",
        ),
        click.Option(
            ["--drain-delay"],
            default=0.0,
            type=click.FloatRange(0, 3600),
            metavar="SECONDS",
            help="How long to serve on after SIGTERM, while /ready asks load balancers to send "
            "requests elsewhere.",
        ),
    ],
)

_Taken = TypeVar("_Taken")


async def take(attempt: Callable[[], Awaitable[_Taken]], seconds: float) -> _Taken:
    """What ``attempt`` returns, tried again for so many seconds while another process has it.

    Raises what the last attempt raised.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    waiting = False
    while True:
        try:
            return await attempt()
        except (StoreInUse, OSError) as error:
            if not is_taken(error) or loop.time() >= deadline:
                raise
            if not waiting:
                waiting = True
                log.info("waiting up to %.0f s for another process to end: %s", seconds, error)
        await asyncio.sleep(RETRY_SECONDS)


async def take_address(
    listen: Callable[[], Awaitable[_Taken]], opening: "asyncio.Future[None]", seconds: float
) -> _Taken:
    """What ``listen`` returns, tried again for so many seconds while another process listens there.

    An address that is taken is waited for once the store is open, which ``opening`` ends with: of
    two processes that wait for both, one would get the address and the other the store.
    """
    if not opening.done():
        try:
            return await listen()
        except OSError as error:
            if not (seconds and is_taken(error)):
                raise
        await asyncio.shield(opening)
    return await take(listen, seconds)


def is_taken(error: Exception) -> bool:
    """Whether another process has what could not be taken."""
    return isinstance(error, StoreInUse) or (
        isinstance(error, OSError) and error.errno == errno.EADDRINUSE
    )
