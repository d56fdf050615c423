"""The client as the official client suite drives it: one JSON command a line, one reply a line.

    python conformance/client_adapter.py --sync | --async

It holds no cleverness of its own: what a command shows is what the client does. Both flavours run
the same code, for which the sync one is called without awaiting.
"""

import argparse
import asyncio
import base64
import inspect
import json
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec

import durable_streams_client as ds

CODES: list[tuple[type[ds.ClientError], str]] = [
    (ds.InvalidArgument, "INVALID_ARGUMENT"),
    (ds.TimedOut, "TIMEOUT"),
    (ds.TransportError, "NETWORK_ERROR"),
    (ds.MalformedResponse, "PARSE_ERROR"),
    (ds.NotFound, "NOT_FOUND"),
    (ds.StreamClosed, "STREAM_CLOSED"),
    (ds.SequenceConflict, "SEQUENCE_CONFLICT"),
    (ds.SequenceGap, "SEQUENCE_CONFLICT"),
    (ds.Conflict, "CONFLICT"),
    (ds.ResponseError, "UNEXPECTED_STATUS"),
]
FEATURES = {
    "batching": True,
    "sse": True,
    "longPoll": True,
    "auto": True,
    "streaming": True,
    "dynamicHeaders": True,
    "retryOptions": True,
    "batchItems": True,
    "strictZeroValidation": True,
}
# The suite's names of our options.
NAMES = {
    "attempts": "maxRetries",
    "initial": "initialDelayMs",
    "maximum": "maxDelayMs",
    "batch_bytes": "maxBatchBytes",
    "batch_items": "maxBatchItems",
}


async def settle(value: Any) -> Any:
    return await value if inspect.isawaitable(value) else value


async def each(iterable: Any) -> AsyncIterator[Any]:
    if hasattr(iterable, "__aiter__"):
        async for item in iterable:
            yield item
    else:
        for item in iterable:
            yield item


async def release(thing: Any, **how: Any) -> None:
    await settle(thing.aclose(**how) if hasattr(thing, "aclose") else thing.close(**how))


class Dynamic:
    """Headers or parameters that are made anew for every request."""

    def __init__(self) -> None:
        self.makers: dict[str, Callable[[], str]] = {}
        self.sent: dict[str, str] = {}

    def add(self, name: str, kind: str, initial: str | None) -> None:
        count = 0

        def make() -> str:
            nonlocal count
            if kind == "counter":
                count += 1
                value = str(count)
            elif kind == "timestamp":
                value = str(time.time_ns() // 1_000_000)
            else:
                value = initial or ""
            return self.sent.setdefault(name, value)

        self.makers[name] = make

    def report(self, key: str) -> dict[str, Any]:
        sent, self.sent = self.sent, {}
        return {key: sent} if sent else {}


class Adapter:
    def __init__(self, *, sync: bool) -> None:
        self.sync = sync
        self.client: Any = None
        self.types: dict[str, str] = {}
        self.producers: dict[tuple[str, str, int], Any] = {}
        self.headers = Dynamic()
        self.params = Dynamic()

    # -- streams -----------------------------------------------------------------------------------

    def stream(self, command: dict[str, Any]) -> Any:
        path = command["path"]
        return self.client.stream(
            path,
            content_type=self.types.get(path),
            headers={**self.headers.makers, **command.get("headers", {})},
            params=self.params.makers,
        )

    def remember(self, stream: Any, command: dict[str, Any]) -> None:
        if stream.content_type is not None:
            self.types[command["path"]] = stream.content_type

    def sent(self) -> dict[str, Any]:
        return {**self.headers.report("headersSent"), **self.params.report("paramsSent")}

    async def do_init(self, command: dict[str, Any]) -> dict[str, Any]:
        kind = ds.Client if self.sync else ds.AsyncClient
        self.__init__(sync=self.sync)  # type: ignore[misc] # all state begins anew
        # Its reads end after 5 seconds, before a client with the default policy gives up.
        retry = ds.RetryPolicy(read_attempts=6)
        self.client = kind(command["serverUrl"], retry=retry)
        return {
            "clientName": f"durable-streams-client ({'sync' if self.sync else 'async'})",
            "clientVersion": ds.__version__,
            "features": FEATURES,
        }

    async def do_create(self, command: dict[str, Any]) -> dict[str, Any]:
        stream = self.stream(command)
        data = command.get("data")
        created = await settle(
            stream.create(
                content_type=command.get("contentType") or "application/octet-stream",
                ttl=command.get("ttlSeconds"),
                expires_at=command.get("expiresAt"),
                closed=bool(command.get("closed")),
                data=data.encode() if data else None,
            )
        )
        self.remember(stream, command)
        return {"status": 201 if created.created else 200, "offset": created.offset}

    async def do_connect(self, command: dict[str, Any]) -> dict[str, Any]:
        stream = self.stream(command)
        info = await settle(stream.head())
        self.remember(stream, command)
        return {"status": 200, "offset": info.offset}

    async def do_head(self, command: dict[str, Any]) -> dict[str, Any]:
        stream = self.stream(command)
        info = await settle(stream.head())
        self.remember(stream, command)
        return {
            "status": 200,
            "offset": info.offset,
            "contentType": info.content_type,
            "streamClosed": info.closed,
            **({} if info.ttl is None else {"ttlSeconds": info.ttl}),
            **({} if info.expires_at is None else {"expiresAt": info.expires_at}),
        }

    async def do_append(self, command: dict[str, Any]) -> dict[str, Any]:
        stream = self.stream(command)
        data = command["data"].encode()
        if command.get("binary"):
            data = base64.b64decode(data)
        seq = command.get("seq")
        appended = await settle(stream.append(data, seq=None if seq is None else str(seq)))
        self.remember(stream, command)
        return {"status": 200, "offset": appended.offset, **self.sent()}

    async def do_close(self, command: dict[str, Any]) -> dict[str, Any]:
        stream = self.stream(command)
        data = command.get("data")
        closed = await settle(stream.close_stream(data.encode() if data else None))
        return {"status": 200, "finalOffset": closed.offset}

    async def do_delete(self, command: dict[str, Any]) -> dict[str, Any]:
        await settle(self.stream(command).delete())
        self.types.pop(command["path"], None)
        return {"status": 200}

    # -- producers ---------------------------------------------------------------------------------

    def producer(self, command: dict[str, Any], limits: Any = None) -> Any:
        return self.stream(command).producer(
            command["producerId"],
            epoch=command["epoch"],
            auto_claim=bool(command.get("autoClaim")),
            limits=limits,
        )

    def kept_producer(self, command: dict[str, Any]) -> Any:
        key = command["path"], command["producerId"], command["epoch"]
        if key not in self.producers:
            self.producers[key] = self.producer(command)
        return self.producers[key]

    async def do_idempotent_append(self, command: dict[str, Any]) -> dict[str, Any]:
        producer = self.kept_producer(command)
        before = producer.duplicates
        await settle(producer.append(command["data"].encode()))
        await settle(producer.flush())
        return {
            "status": 200,
            "producerSeq": producer.last_seq,
            "duplicate": producer.duplicates > before,
            **({} if producer.offset is None else {"offset": producer.offset}),
        }

    async def do_idempotent_append_batch(self, command: dict[str, Any]) -> dict[str, Any]:
        in_flight = command.get("maxInFlight") or 1
        limits = ds.ProducerLimits(
            in_flight=in_flight,
            linger=0 if in_flight > 1 else 0.005,
            batch_items=1 if in_flight > 1 else 50_000,
        )
        producer = self.producer(command, limits)
        try:
            for item in command["items"]:
                await settle(producer.append(item.encode()))
            await settle(producer.flush())
        finally:
            await release(producer, flush=False)
        return {"status": 200, "producerSeq": producer.last_seq}

    async def do_idempotent_close(self, command: dict[str, Any]) -> dict[str, Any]:
        data = command.get("data")
        producer = self.kept_producer(command)
        closed = await settle(producer.close_stream(data.encode() if data else None))
        return {"status": 200, "finalOffset": closed.offset}

    async def do_idempotent_detach(self, command: dict[str, Any]) -> dict[str, Any]:
        key = command["path"], command["producerId"], command["epoch"]
        producer = self.producers.pop(key, None)
        if producer is not None:
            await release(producer)
        return {"status": 200}

    # -- reading -----------------------------------------------------------------------------------

    async def do_read(self, command: dict[str, Any]) -> dict[str, Any]:
        live = command.get("live") or False
        stream = self.stream(command)
        offset = command.get("offset") or ds.START
        if live:
            reader = stream.follow(offset, live="auto" if live is True else live)
        else:
            reader = stream.read(offset)
        chunks: list[dict[str, Any]] = []
        limit = command.get("maxChunks") or 100
        timed_out = False

        def expire() -> None:
            nonlocal timed_out
            timed_out = True
            reader.cancel()

        timer = threading.Timer((command.get("timeoutMs") or 5000) / 1000, expire)
        timer.start()
        try:
            async for batch in each(reader):
                if batch.data:
                    chunks.append({"data": shown(batch), "offset": batch.offset})
                if live and len(chunks) >= limit:
                    break
                if live and command.get("waitForUpToDate") and batch.up_to_date:
                    break
            await settle(reader.save())
        except ds.Cancelled:
            if not timed_out:
                raise
        finally:
            timer.cancel()
            state = reader.up_to_date, reader.closed
            await release(reader)
        if not live and chunks:
            chunks = joined(chunks, reader.content_type)
        return {
            "status": reader.status or 200,
            "chunks": chunks,
            "offset": reader.offset,
            "upToDate": state[0] or (timed_out and not chunks),
            "streamClosed": state[1],
            **({} if reader.cursor is None else {"cursor": reader.cursor}),
            **self.sent(),
        }

    # -- headers, options, benchmarks --------------------------------------------------------------

    async def do_set_dynamic_header(self, command: dict[str, Any]) -> dict[str, Any]:
        self.headers.add(command["name"], command["valueType"], command.get("initialValue"))
        return {}

    async def do_set_dynamic_param(self, command: dict[str, Any]) -> dict[str, Any]:
        self.params.add(command["name"], command["valueType"], None)
        return {}

    async def do_clear_dynamic(self, _: dict[str, Any]) -> dict[str, Any]:
        self.headers, self.params = Dynamic(), Dynamic()
        return {}

    async def do_validate(self, command: dict[str, Any]) -> dict[str, Any]:
        target = command["target"]
        try:
            if target["target"] == "retry-options":
                given = {
                    "attempts": target.get("maxRetries", 3) + 1,
                    "initial": target.get("initialDelayMs", 100) / 1000,
                    "maximum": target.get("maxDelayMs", 30_000) / 1000,
                    "multiplier": target.get("multiplier", 2.0),
                }
                ds.RetryPolicy(**given)
            else:
                limits = ds.ProducerLimits(
                    batch_bytes=target.get("maxBatchBytes", 1 << 20),
                    batch_items=target.get("maxBatchItems", 50_000),
                )
                self.client.stream("/validate").producer(
                    target.get("producerId"), epoch=target.get("epoch"), limits=limits
                )
        except ds.InvalidArgument as error:
            name, rest = error.message.split(" ", 1)
            raise ds.InvalidArgument(f"{NAMES.get(name, name)} {rest}") from error
        return {}

    async def do_benchmark(self, command: dict[str, Any]) -> dict[str, Any]:
        operation = command["operation"]
        name = "measure_" + operation["op"].replace("-", "_")
        started = time.perf_counter_ns()
        metrics = await getattr(self, name)(operation)
        return {
            "iterationId": command["iterationId"],
            "durationNs": str(time.perf_counter_ns() - started),
            **({"metrics": metrics} if metrics else {}),
        }

    async def measure_append(self, operation: dict[str, Any]) -> dict[str, Any]:
        await settle(self.stream(operation).append(b"*" * operation["size"]))
        return {"bytesTransferred": operation["size"]}

    async def measure_read(self, operation: dict[str, Any]) -> dict[str, Any]:
        reader = self.stream(operation).read(operation.get("offset") or ds.START)
        return {"bytesTransferred": sum([len(batch.data) async for batch in each(reader)])}

    async def measure_roundtrip(self, operation: dict[str, Any]) -> dict[str, Any]:
        stream = self.stream(operation)
        size = operation["size"]
        content_type = operation.get("contentType") or "application/octet-stream"
        await settle(stream.create(content_type=content_type))
        live = operation.get("live") or "long-poll"
        reader = stream.follow(live="auto" if live is True else live)
        await settle(stream.append(b"*" * size))
        got = 0
        async for batch in each(reader):
            got += len(batch.data)
            if got:
                break
        await release(reader)
        return {"bytesTransferred": size + got}

    async def measure_create(self, operation: dict[str, Any]) -> dict[str, Any]:
        content_type = operation.get("contentType") or "application/octet-stream"
        await settle(self.stream(operation).create(content_type=content_type))
        return {}

    async def measure_throughput_append(self, operation: dict[str, Any]) -> dict[str, Any]:
        stream = self.stream(operation)
        await settle(stream.create(content_type=self.types.get(operation["path"])))
        data = b"*" * operation["size"]
        producer = stream.producer()
        for _ in range(operation["count"]):
            await settle(producer.append(data))
        await release(producer)
        return {
            "bytesTransferred": operation["count"] * operation["size"],
            "messagesProcessed": operation["count"],
        }

    async def measure_throughput_read(self, operation: dict[str, Any]) -> dict[str, Any]:
        count = size = 0
        async for batch in each(self.stream(operation).read()):
            count += len(batch.items())
            size += len(batch.data)
        return {"bytesTransferred": size, "messagesProcessed": count}

    # -- the loop ----------------------------------------------------------------------------------

    async def reply(self, command: dict[str, Any]) -> dict[str, Any]:
        kind = command["type"]
        if kind == "shutdown":
            if self.client is not None:
                await release(self.client)
            return {"type": kind, "success": True}
        try:
            found = await getattr(self, "do_" + kind.replace("-", "_"))(command)
        except ds.ClientError as error:
            return self.failure(kind, error)
        return {"type": kind, "success": True, **found}

    @staticmethod
    def failure(kind: str, error: ds.ClientError) -> dict[str, Any]:
        told = error.cause if isinstance(error, ds.NotStored) else error
        code = next((code for kind, code in CODES if isinstance(told, kind)), "INTERNAL_ERROR")
        if isinstance(told, ds.InvalidRequest) and "offset" in str(told).lower():
            code = "INVALID_OFFSET"
        return {
            "type": "error",
            "success": False,
            "commandType": kind,
            "errorCode": code,
            "message": str(error),
            **({} if told.status is None else {"status": told.status}),
        }


def shown(batch: ds.Batch[Any]) -> str:
    """The data of a batch as text; for JSON in its most compact form."""
    if batch.is_json:
        return msgspec.json.encode(batch.items()).decode()
    return batch.data.decode("utf-8", "replace")


def joined(chunks: list[dict[str, Any]], content_type: str) -> list[dict[str, Any]]:
    """All pages of a catch-up read as one chunk."""
    texts = [chunk["data"] for chunk in chunks]
    if content_type.startswith("application/json"):
        items = [item for text in texts for item in json.loads(text)]
        text = msgspec.json.encode(items).decode() if len(texts) > 1 else texts[0]
        if text == "[]":
            return []
    else:
        text = "".join(texts)
    return [{"data": text, "offset": chunks[-1]["offset"]}]


async def main() -> None:
    parser = argparse.ArgumentParser()
    flavour = parser.add_mutually_exclusive_group(required=True)
    flavour.add_argument("--sync", action="store_true")
    flavour.add_argument("--async", action="store_true")
    adapter = Adapter(sync=parser.parse_args().sync)
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        command = json.loads(line)
        print(json.dumps(await adapter.reply(command)), flush=True)
        if command["type"] == "shutdown":
            return


if __name__ == "__main__":
    asyncio.run(main())
