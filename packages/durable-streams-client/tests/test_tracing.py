"""Imports of a client without tracing, and ends of spans by cancellation and time limits."""

import asyncio
import importlib
import subprocess
import sys
from contextvars import copy_context

import pytest
from hostile import Fault, Hostile
from opentelemetry.trace import INVALID_SPAN, StatusCode
from traced import Traced, about, current

from durable_streams_client import AsyncClient, TimedOut, Timeouts


def test_a_client_without_tracing_imports_nothing_of_opentelemetry(server: Hostile) -> None:
    server.put("a", content_type="application/json")
    code = f"""
import sys, durable_streams_client as ds
with ds.Client({server.url!r}) as client:
    stream = client.stream("a")
    stream.append(1)
    with stream.producer() as producer:
        producer.append(2)
    stream.read().read_items()
print([name for name in sys.modules if name.startswith("opentelemetry")])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert done.stdout.strip() == "[]"


def test_tracing_without_opentelemetry_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    monkeypatch.delitem(sys.modules, "durable_streams_client.tracing")
    with pytest.raises(ImportError, match=r"pip install 'durable-streams-client\[tracing\]'"):
        importlib.import_module("durable_streams_client.tracing")


async def test_a_cancelled_task_ends_its_span(server: Hostile) -> None:
    traced = Traced()
    server.faults = lambda asked: Fault(stall=True)
    async with AsyncClient(server.url, tracing=traced.tracing) as client:
        asking = asyncio.create_task(client.stream("a").head())
        await asyncio.to_thread(server.wait_until, lambda: bool(server.asked))
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
    span = traced.named("HEAD head")
    assert about(span)["error.type"] == "CancelledError"
    assert span.status.status_code is StatusCode.UNSET


async def test_a_call_whose_time_is_up_marks_its_span(server: Hostile) -> None:
    traced = Traced()
    server.faults = lambda asked: Fault(stall=True)
    limits = Timeouts(total=0.05)
    async with AsyncClient(server.url, tracing=traced.tracing, timeouts=limits) as client:
        with pytest.raises(TimedOut):
            await client.stream("a").head()
    span = traced.named("HEAD head")
    assert about(span)["error.type"] == "TimedOut"
    assert span.status.status_code is StatusCode.ERROR


async def test_a_call_that_is_closed_in_another_context_ends_its_span(
    server: Hostile, caplog: pytest.LogCaptureFixture
) -> None:
    """A waiting coroutine that is dropped is closed, perhaps long after the end of its task."""
    traced = Traced()
    async with AsyncClient(server.url, tracing=traced.tracing) as client:
        call = client.stream("a").head()
        copy_context().run(call.send, None)
        call.close()
    assert traced.names == ["HEAD head"]
    assert current() is INVALID_SPAN
    assert caplog.text == ""


async def test_a_producer_that_is_given_up_ends_its_span(server: Hostile) -> None:
    traced = Traced()
    server.put("a", content_type="text/plain")
    server.faults = lambda asked: Fault(stall=True)
    async with AsyncClient(server.url, tracing=traced.tracing) as client:
        producer = client.stream("a", content_type="text/plain").producer()
        await producer.append("1")
        await asyncio.to_thread(server.wait_until, lambda: bool(server.asked))
        await producer.aclose(flush=False)
    assert about(traced.named("POST append"))["error.type"] == "CancelledError"
