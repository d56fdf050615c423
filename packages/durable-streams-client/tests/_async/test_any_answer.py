"""Whatever a server answers, the client returns, repeats at a growing pace or raises its errors."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from answers import PAGE_AT_TAIL, answers
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from wire import Wire, answer

from durable_streams_client import (
    AsyncClient,
    AsyncPullWorker,
    AsyncSubscriptions,
    AsyncWebhookVerifier,
    Claim,
    ClientError,
    ProducerLimits,
    RetryPolicy,
    Timeouts,
    WebhookRejected,
)

SECONDS = Timeouts(connect=10, read=10, idle=10, first_event=10)
"""A safety net: no answer may make anything wait, for the connection ends with it."""
QUICK = RetryPolicy(
    initial=0.001,
    maximum=0.002,
    attempts=3,
    read_attempts=3,
    follow_attempts=3,
    retry_after_limit=0.002,  # a server may ask for minutes
)
MOST_REQUESTS = 3 * 6
"""Of one operation: a producer's batches in each of its epochs, every one repeated."""
ENOUGH_REQUESTS = 8
"""A reader that follows may wait for data for ever, so it is cancelled after so many."""
BATCHES = 5
CIRCLE = answer(308, {"Location": "?again"})

Operation = Callable[[AsyncClient], Awaitable[object]]


async def create(client: AsyncClient) -> object:
    return await client.stream("a").create(content_type="application/json", data=1)


async def head(client: AsyncClient) -> object:
    return await client.stream("a").head()


async def delete(client: AsyncClient) -> object:
    return await client.stream("a").delete(missing_ok=True)


async def append(client: AsyncClient) -> object:
    return await client.stream("a", content_type="application/json").append(1)


async def produce(client: AsyncClient) -> object:
    stream = client.stream("a", content_type="application/json")
    async with stream.producer(limits=ProducerLimits(batch_items=2)) as producer:
        await producer.append_many(range(4))
    return producer.offset


async def claim(client: AsyncClient) -> object:
    return await AsyncSubscriptions(client).claim("s", "me")


async def describe(client: AsyncClient) -> object:
    return await AsyncSubscriptions(client).get("s")


async def ack(client: AsyncClient) -> object:
    lease = Claim("s", "w", 1, "t", (), 30.0)
    return await AsyncSubscriptions(client).ack(lease, {"a": "1"}, done=True)


async def work(client: AsyncClient) -> object:
    return await AsyncPullWorker(client, "s", lambda path, batch: None, name="me").work_once()


async def verify(client: AsyncClient) -> object:
    signature = {"webhook-signature": "t=1,kid=k,ed25519=" + "A" * 86}
    verifier = AsyncWebhookVerifier(client, f"{client.base_url}jwks", window=float("inf"))
    try:
        return await verifier.verify(signature, b"{}")
    except WebhookRejected as rejected:
        return rejected


@pytest.mark.parametrize(
    "operation", [create, head, delete, append, produce, claim, describe, ack, work, verify]
)
@settings(deadline=None, max_examples=10, suppress_health_check=list(HealthCheck))
@given(given_answers=st.lists(answers, min_size=1, max_size=3))
@example(given_answers=[CIRCLE])
async def test_operations_end_with_a_result_or_a_client_error(
    operation: Operation, given_answers: list[bytes]
) -> None:
    with Wire() as wire:
        wire.answer = in_turn(given_answers)
        async with AsyncClient(wire.url, timeouts=SECONDS, retry=QUICK) as client:
            try:
                await operation(client)
            except ClientError as error:
                assert str(error)
    assert len(wire.requests) <= MOST_REQUESTS


@pytest.mark.parametrize("live", [None, "auto", "sse", "long-poll"])
@settings(deadline=None, max_examples=25, suppress_health_check=list(HealthCheck))
@given(given_answers=st.lists(answers, min_size=1, max_size=4), begins=st.booleans())
async def test_readers_hand_out_batches_or_raise_a_client_error(
    live: Any, given_answers: list[bytes], begins: bool
) -> None:
    with Wire() as wire:
        answer = in_turn([PAGE_AT_TAIL, *given_answers] if begins else given_answers)
        async with AsyncClient(wire.url, timeouts=SECONDS, retry=QUICK) as client:
            stream = client.stream("a")
            reader = stream.read() if live is None else stream.follow(live=live)

            def count_and_answer(request: bytes) -> bytes:
                if len(wire.requests) > ENOUGH_REQUESTS:
                    reader.cancel()
                return answer(request)

            wire.answer = count_and_answer
            batches = 0
            try:
                async for batch in reader:
                    assert batch.offset
                    assert len(batch) >= 0
                    batches += 1
                    if batches == BATCHES:
                        break
            except ClientError as error:
                assert str(error)
            await reader.aclose()


def in_turn(prepared: list[bytes]) -> Callable[[bytes], bytes]:
    """One after the other, the last again and again."""
    left = list(prepared)
    return lambda request: left.pop(0) if len(left) > 1 else left[0]
