"""An ASGI application that runs in one event loop of this process, from its startup to its end."""

import asyncio
import logging
from contextvars import Context
from typing import Any, Final

from durable_streams_client.asgi_exchange import App, Exchange, Message
from durable_streams_client.asgi_scope import ASGI

logger = logging.getLogger("durable_streams_client")

GRACE_SECONDS: Final = 5.0
"""How long requests may go on after their clients have left, and the shutdown may take."""


class Application:
    """The application, its lifespan and the requests under way. All methods run in its loop.

    The lifespan begins with the first request. An application that has none goes without.
    """

    def __init__(self, app: App, loop: asyncio.AbstractEventLoop, *, lifespan: bool) -> None:
        self._app = app
        self._lifespan = Lifespan(app, loop) if lifespan else None
        self._tasks: dict[asyncio.Task[None], Exchange] = {}

    def begin(self, exchange: Exchange) -> None:
        """Have the application answer a request."""
        task = asyncio.get_running_loop().create_task(self._run(exchange))
        self._tasks[task] = exchange
        task.add_done_callback(self._tasks.pop)

    async def _run(self, exchange: Exchange) -> None:
        try:
            if self._lifespan is not None:
                failure = await self._lifespan.started()
                if failure is not None:
                    exchange.fail(f"the application did not start: {failure}", unsent=True)
                    return
                exchange.scope["state"] = self._lifespan.state.copy()
            await exchange.run(self._app)
        finally:
            exchange.fail("the application was stopped")

    async def stop(self) -> None:
        """End all requests, then the lifespan."""
        tasks = dict(self._tasks)
        for exchange in tasks.values():
            exchange.leave()
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=GRACE_SECONDS)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late)
        if self._lifespan is not None:
            await self._lifespan.end()


class Lifespan:
    """The lifespan of an application, in a task of its own."""

    def __init__(self, app: App, loop: asyncio.AbstractEventLoop) -> None:
        self.state: dict[str, Any] = {}
        self._app = app
        self._task: asyncio.Task[None] | None = None
        self._startup: asyncio.Future[str | None] = loop.create_future()
        self._ending = asyncio.Event()
        self._begun = False

    async def started(self) -> str | None:
        """Wait for the startup, which the first caller begins; returns why it failed, or None."""
        if self._task is None:
            # The context of the request that happens to be the first ends with that request.
            self._task = asyncio.get_running_loop().create_task(self._run(), context=Context())
        return await asyncio.shield(self._startup)

    async def end(self) -> None:
        """Have the application shut down, if it has started."""
        if self._task is None:
            return
        self._ending.set()
        _, late = await asyncio.wait([self._task], timeout=GRACE_SECONDS)
        if late:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        scope = {"type": "lifespan", "asgi": ASGI, "state": self.state}
        try:
            await self._app(scope, self._receive, self._send)
        except Exception as error:
            if self._startup.done():
                logger.exception("the application's lifespan failed")
            else:
                logger.debug("the application has no lifespan: %r", error)
        finally:
            self._answer(None)

    def _answer(self, failure: str | None) -> None:
        if not self._startup.done():
            self._startup.set_result(failure)

    async def _receive(self) -> Message:
        if not self._begun:
            self._begun = True
            return {"type": "lifespan.startup"}
        await self._ending.wait()
        return {"type": "lifespan.shutdown"}

    async def _send(self, message: Message) -> None:
        kind = message["type"]
        if kind == "lifespan.startup.complete":
            self._answer(None)
        elif kind == "lifespan.startup.failed":
            self._answer(message.get("message") or "it gave no reason")
        elif kind == "lifespan.shutdown.failed":
            logger.error("the application's shutdown failed: %s", message.get("message", ""))
