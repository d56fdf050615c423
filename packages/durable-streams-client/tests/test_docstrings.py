"""Every public name has a docstring with an example, which runs as it stands.

An example of an async name is written as for ``python -m asyncio``, with ``await`` at the top.
"""

import ast
import asyncio
import doctest
import inspect
import json
import time
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import httpx
import pytest
from asgi_apps import Message, Receive, Send
from hostile import LOST, Asked, Fault, refuse
from subscribed import JWKS, Signer, Subscribed

import durable_streams_client as ds

EXCUSED = {
    "DurableStreamsError": "core has it, which knows no client",
    "ClientError.about": "the client calls it, before the error is raised",
    "AsgiTransport.handle_request": "httpx calls it",
    "AsgiTransport.send": "a client of streams calls it",
    "AsgiTransport.close": "the client that was given the transport calls it",
    "AsyncAsgiTransport.handle_async_request": "httpx calls it",
    "AsyncAsgiTransport.send": "a client of streams calls it",
    "AsyncAsgiTransport.aclose": "the client that was given the transport calls it",
} | {
    f"{name}.{method}": "the class shows it"
    for name in ds.__all__
    if name.endswith("Checkpoint")
    for method in ("load", "save")
}
"""The public names without an example, and why."""

BODY = json.dumps({"subscription_id": "jobs"}).encode()

FAULTS = {
    "AccessDenied": refuse(401),
    "ConnectionLost": LOST,
    "Gone": refuse(410),
    "MalformedResponse": Fault(drop=["Stream-Next-Offset"]),
    "OffsetGone": Fault(
        apply=False,
        status=410,
        headers={"Content-Type": "application/problem+json"},
        body=json.dumps({"code": "offset-gone"}).encode(),
    ),
    "Redirected": refuse(307, Location="https://example.org/numbers"),
    "Retry": refuse(503),
    "SequenceGap": refuse(409, Producer_Expected_Seq="3", Producer_Received_Seq="5"),
    "TimedOut": Fault(stall=True),
    "TooLarge": refuse(413),
    "TransportError": LOST,
    "Unavailable": refuse(503, Retry_After="5"),
}
"""What goes wrong with the answers that some examples show."""

CLOSED = {"AsyncCheckpoint", "Checkpoint", "MemoryCheckpoint"}
"""The examples that follow a stream to its end."""


def documented() -> dict[str, Any]:
    """The public classes and functions, and the public methods that the classes themselves have."""
    found: dict[str, Any] = {}
    for name in ds.__all__:
        each = getattr(ds, name)
        if not (inspect.isclass(each) or inspect.isfunction(each)):
            continue  # a constant or the alias of a type, which cannot have a docstring
        found[name] = each
        if inspect.isclass(each):
            found |= {
                f"{name}.{method}": value
                for method, value in vars(each).items()
                if not method.startswith("_")
                and (inspect.isfunction(value) or isinstance(value, (property, classmethod)))
            }
    return found


NAMES = documented()
EXAMPLES = {
    name: examples
    for name, each in NAMES.items()
    if (examples := doctest.DocTestParser().get_examples(inspect.cleandoc(each.__doc__ or "")))
}


class Redis(dict[str, str]):
    """As much of a client of Redis as a checkpoint uses."""

    def set(self, key: str, value: str) -> bool:
        self[key] = value
        return True


async def app(scope: Message, receive: Receive, send: Send) -> None:
    """An application whose streams all hold three messages."""
    if scope["type"] == "lifespan":
        return
    headers = [(b"content-type", b"application/json"), (b"stream-next-offset", b"00000003")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b""})


def awaiting(runner: asyncio.Runner) -> Callable[[CodeType, dict[str, Any]], None]:
    """An ``exec`` that runs ``await`` at the top of the code in the runner's event loop."""

    def run(code: CodeType, names: dict[str, Any]) -> None:
        result = FunctionType(code, names)()
        if code.co_flags & inspect.CO_COROUTINE:
            runner.run(result)

    return run


def faults_of(name: str) -> Callable[[Asked], Fault | None]:
    fault = FAULTS.get(name)
    return lambda asked: fault if name != "Retry" or asked.count == 0 else None


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_example_of(
    name: str, hub: Subscribed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.extended = name != "NotSupported"
    hub.subscribe("jobs", "numbers")
    hub.put("numbers", b"1", b"2", b"3", content_type="application/json")
    hub.put("deep", b"[" * 100_000 + b"]" * 100_000, content_type="application/json")
    hub.put("poem", b"Roses are red", content_type="text/plain")
    hub.streams["/numbers"].closed = name in CLOSED
    hub.keys = [Signer("k1")]
    hub.faults = faults_of(name)
    once = ds.RetryPolicy(attempts=1, read_attempts=1)
    names: dict[str, Any] = {each: getattr(ds, each) for each in ds.__all__}
    names |= {
        "app": app,
        "asyncio": asyncio,
        "body": BODY,
        "folder": tmp_path,
        "headers": hub.keys[0].headers(BODY, int(time.time())),
        "httpx": httpx,
        "jwks": {"keys": [key.jwk for key in hub.keys]},
        "jwks_url": f"{hub.url}{JWKS}",
        "redis": Redis(),
        "url": hub.url,
    }
    told: list[str] = []
    with asyncio.Runner() as runner, ds.Client(hub.url, retry=once) as client:
        monkeypatch.setattr(doctest, "exec", awaiting(runner), raising=False)
        lent: Any = ds.AsyncClient(hub.url) if name.startswith("Async") else client
        names |= {"client": lent, "stream": lent.stream("numbers")}
        test = doctest.DocTest(EXAMPLES[name], names, name, None, None, None)
        doctest.DocTestRunner(verbose=False).run(
            test, compileflags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, out=told.append, clear_globs=False
        )
        if isinstance(lent, ds.AsyncClient):
            runner.run(lent.aclose())
        if isinstance(opened := names["client"], ds.AsyncClient):
            runner.run(opened.aclose())
    assert not told, "".join(told)


def test_every_public_name_has_an_example_or_an_excuse() -> None:
    methods = {name for name, each in NAMES.items() if not isinstance(each, property)}
    assert methods - set(EXAMPLES) == set(EXCUSED)
