"""The event loop in which an application runs for a client in another thread."""

import asyncio
import threading
from collections.abc import Callable

from durable_streams_client._sync.runtime import Notifier
from durable_streams_client.asgi_application import Application
from durable_streams_client.asgi_exchange import App, is_running
from durable_streams_client.errors import NotUsableHere


class AppLoop:
    """Runs an application in ``loop``, or in a loop of its own in a thread of its own."""

    def __init__(self, app: App, loop: asyncio.AbstractEventLoop | None, *, lifespan: bool) -> None:
        self._app = app
        self._given = loop
        self._lifespan = lifespan
        self._mutex = threading.Lock()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._application: Application | None = None

    def get(self) -> tuple[asyncio.AbstractEventLoop, Application]:
        """The loop and the application in it, made at the first call."""
        with self._mutex:
            if self._application is None or self._loop is None or self._loop.is_closed():
                self._loop = self._given or self._begin()
                self._application = Application(self._app, self._loop, lifespan=self._lifespan)
            loop, application = self._loop, self._application
        if is_running(loop):
            raise NotUsableHere(
                "A sync client cannot wait for an application in the loop that the wait would stop.",
                advice="Use AsyncClient here, or call the sync client in asyncio.to_thread().",
            )
        return loop, application

    def _begin(self) -> asyncio.AbstractEventLoop:
        loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._run, args=(loop,), name="durable-streams-app", daemon=True
        )
        self._thread.start()
        return loop

    @staticmethod
    def _run(loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        try:
            loop.run_forever()
        finally:
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.run_until_complete(loop.shutdown_default_executor())
            asyncio.set_event_loop(None)
            loop.close()

    def close(self) -> None:
        """End the application's requests and its lifespan, and the thread if it is ours."""
        with self._mutex:
            loop, application, thread = self._loop, self._application, self._thread
            self._loop = self._application = self._thread = None
        if loop is None or application is None or not loop.is_running():
            return
        stopping = asyncio.run_coroutine_threadsafe(application.stop(), loop)
        if not is_running(loop):
            stopping.result()
        if thread is not None:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()


def waker(notifier: Notifier) -> Callable[[], None]:
    """What any thread may call to notify the thread that waits."""
    return notifier.notify
