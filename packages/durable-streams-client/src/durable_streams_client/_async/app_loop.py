"""The event loop in which an application runs for a client in the same process."""

import asyncio
from collections.abc import Callable
from contextlib import suppress

from durable_streams_client._async.runtime import Notifier
from durable_streams_client.asgi_application import Application
from durable_streams_client.asgi_exchange import App, is_running


class AppLoop:
    """Runs an application in ``loop``, or in the loop that is running when it is first asked."""

    def __init__(self, app: App, loop: asyncio.AbstractEventLoop | None, *, lifespan: bool) -> None:
        self._app = app
        self._given = loop
        self._lifespan = lifespan
        self._loop: asyncio.AbstractEventLoop | None = None
        self._application: Application | None = None

    def get(self) -> tuple[asyncio.AbstractEventLoop, Application]:
        """The loop and the application in it, made at the first call."""
        if self._application is None or self._loop is None or self._loop.is_closed():
            self._loop = self._given or asyncio.get_running_loop()
            self._application = Application(self._app, self._loop, lifespan=self._lifespan)
        return self._loop, self._application

    async def aclose(self) -> None:
        """End the application's requests and its lifespan."""
        loop, application = self._loop, self._application
        self._loop = self._application = None
        if loop is None or application is None or not loop.is_running():
            return
        if is_running(loop):
            await application.stop()
        else:
            stopping = asyncio.run_coroutine_threadsafe(application.stop(), loop)
            await asyncio.wrap_future(stopping)


def waker(notifier: Notifier) -> Callable[[], None]:
    """What any thread may call to notify a task of the running loop."""
    loop = asyncio.get_running_loop()

    def wake() -> None:
        if is_running(loop):
            notifier.notify()
        else:
            with suppress(RuntimeError):  # the loop is closed, and nobody waits any more
                loop.call_soon_threadsafe(notifier.notify)

    return wake
