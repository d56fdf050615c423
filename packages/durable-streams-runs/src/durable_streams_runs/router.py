"""Runs over HTTP: an ASGI application that starts, stops, describes and lists them."""

import inspect
import logging
import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import parse_qs

import msgspec

from durable_streams_core.errors import DurableStreamsError, InvalidRequest
from durable_streams_runs.errors import RunError
from durable_streams_runs.runs import Runs
from durable_streams_runs.states import RunInfo

__all__ = ["Router", "create_router"]

log = logging.getLogger("durable_streams_runs")

MAX_BODY = 256 * 1024
"""Bytes of a request that starts a run."""
MAX_LISTED = 1_000
"""Runs in one page of a list."""
UNAVAILABLE = "The runs cannot be reached now. Try again later."

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Authorize = Callable[[str, str, Any], Awaitable[bool | int] | bool | int]


class StartRequest(msgspec.Struct, forbid_unknown_fields=True):
    """The body of a request that starts a run."""

    task: str
    args: dict[str, Any] = {}


class Page(msgspec.Struct, frozen=True):
    """Some runs, and the ``after`` of the next page, or None after the last."""

    runs: list[RunInfo]
    next: str | None


class Refused(Exception):
    """A request that is answered with a status, a code and a sentence."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


def create_router(runs: Runs, *, authorize: Authorize | None = None) -> "Router":
    """An ASGI application for the tasks of ``runs``, to be mounted anywhere.

    ``POST ID`` with ``{"task": NAME, "args": {…}}`` starts a run, ``GET ID`` tells its status,
    ``DELETE ID`` stops it, and ``GET /`` lists runs.

    ``authorize(action, path, scope)`` is asked first, as by ``create_asgi``: for ``create`` to
    start a run, ``append`` to stop it, ``head`` for its status and ``list`` for each that is
    listed. True permits, False refuses with 403, and 401 or 403 refuse with that status.
    """
    return Router(runs, authorize)


class Router:
    """An ASGI application. Made by :func:`create_router`."""

    def __init__(self, runs: Runs, authorize: Authorize | None) -> None:
        self._runs = runs
        self._authorize = authorize

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request; other scopes are refused as ASGI asks for."""
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        if scope["type"] != "http":
            raise NotImplementedError(f"The router of runs speaks HTTP, not {scope['type']}.")
        try:
            status, body = await self._answer(scope, receive)
        except Refused as refused:
            status, body = refused.status, _error(refused.code, str(refused))
        except RunError as error:
            status, body = error.status, _error(error.code, str(error))
        except DurableStreamsError as error:
            # That of a server names it, and may be about this worker's access to it.
            if type(error) is InvalidRequest:
                status, body = error.status, _error(error.code, error.message)
            else:
                log.exception("The streams failed during a request about runs.")
                status, body = 503, _error("unavailable", UNAVAILABLE)
        except Exception:
            log.exception("A request about runs failed.")
            status, body = 500, _error("internal-error", "The request failed.")
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            (b"cache-control", b"no-store"),
            (b"x-content-type-options", b"nosniff"),
        ]
        if status == 405:
            headers.append((b"allow", b"GET, POST, DELETE"))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _answer(self, scope: Scope, receive: Receive) -> tuple[int, bytes]:
        run_id = _run_id(scope)
        match scope["method"], run_id:
            case "GET", "":
                return 200, _encode(await self._list(scope))
            case "GET", _:
                await self._permit("head", run_id, scope)
                return 200, _encode(await self._runs.status(run_id))
            case "DELETE", _ if run_id:
                await self._permit("append", run_id, scope)
                return 200, _encode(await self._runs.stop(run_id))
            case "POST", _ if run_id:
                await self._permit("create", run_id, scope)
                return await self._start(run_id, scope, receive)
        raise Refused(
            405, "method-not-allowed", "A run is started, read and stopped, nothing else."
        )

    async def _start(self, run_id: str, scope: Scope, receive: Receive) -> tuple[int, bytes]:
        # A page of another origin can send this type only after a preflight, which is refused.
        if _media_type(scope) != b"application/json":
            raise Refused(415, "unsupported-media-type", "Send application/json.")
        try:
            request = msgspec.json.decode(await _body(receive), type=StartRequest)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise Refused(
                400, "invalid-body", f"The body is not as it should be: {error}"
            ) from None
        task = self._runs.tasks().get(request.task)
        if task is None:
            raise Refused(400, "unknown-task", "There is no task of that name.")
        try:
            run = await self._runs.start(run_id, task, args=request.args)
        except (TypeError, ValueError):
            raise Refused(400, "invalid-args", "The task does not take these arguments.") from None
        return 201 if run.started else 200, _encode(await run.status())

    async def _list(self, scope: Scope) -> Page:
        query = parse_qs(scope.get("query_string", b"").decode("latin-1"), keep_blank_values=True)
        prefix, after = query.get("prefix", [""])[-1], query.get("after", [""])[-1]
        wanted = query.get("limit", ["100"])[-1]
        limit = int(wanted) if re.fullmatch("[0-9]{1,9}", wanted) else 0
        if not 0 < limit <= MAX_LISTED:
            raise Refused(400, "invalid-limit", f"limit is a number from 1 to {MAX_LISTED}.")
        listed = await self._runs.list(prefix, after=after, limit=limit)
        seen = [info for info in listed if await self._verdict("list", info.id, scope) is True]
        return Page(seen, listed[-1].id if len(listed) == limit else None)

    async def _permit(self, action: str, run_id: str, scope: Scope) -> None:
        verdict = await self._verdict(action, run_id, scope)
        if verdict is not True:
            status = 401 if verdict == 401 else 403
            raise Refused(status, "access-denied", "You may not do this.")

    async def _verdict(self, action: str, run_id: str, scope: Scope) -> bool | int:
        if self._authorize is None:
            return True
        verdict = self._authorize(action, run_id, scope)
        return await verdict if inspect.isawaitable(verdict) else verdict


def _run_id(scope: Scope) -> str:
    """The path below the mount. Servers and frameworks differ in whether ``path`` includes it."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "").rstrip("/")
    if root and (path == root or path.startswith(root + "/")):
        path = path[len(root) :]
    return path.removeprefix("/")


def _media_type(scope: Scope) -> bytes:
    for name, value in scope["headers"]:
        if name == b"content-type":
            found: bytes = value.partition(b";")[0].strip().lower()
            return found
    return b""


async def _body(receive: Receive) -> bytes:
    body: bytes = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Refused(400, "incomplete-body", "The request ended early.")
        body += message.get("body", b"")
        if len(body) > MAX_BODY:
            raise Refused(413, "too-large", f"The body is larger than {MAX_BODY} bytes.")
        if not message.get("more_body", False):
            return body


async def _lifespan(receive: Receive, send: Send) -> None:
    """Answer the server; whoever made the runs starts and stops them."""
    while True:
        message = await receive()
        await send({"type": message["type"] + ".complete"})
        if message["type"] == "lifespan.shutdown":
            return


def _encode(value: RunInfo | Page) -> bytes:
    return msgspec.json.encode(value)


def _error(code: str, message: str) -> bytes:
    return msgspec.json.encode({"error": {"code": code, "message": message}})
