"""Tests of the FastAPI application: its own routes and its streams, live and without a socket."""

import httpx
from fastapi_app import app

from durable_streams_client import AsgiTransport, AsyncAsgiTransport, AsyncClient, Client


async def test_an_answer_is_streamed_until_it_is_complete() -> None:
    transport = AsyncAsgiTransport(app)  # starts the application, and stops it at the end
    async with httpx.AsyncClient(transport=transport, base_url="http://app") as web:
        asked = await web.post("/chats/42", params={"prompt": "hello"})
        async with AsyncClient(http=web) as client:
            answer = client.stream("http://app" + asked.json()["stream"]).follow()
            words = [message["token"] async for message in answer.items()]
    assert words[:3] == ["You", "said", "hello"]


def test_the_same_without_asyncio() -> None:
    with httpx.Client(transport=AsgiTransport(app), base_url="http://app") as web:
        asked = web.post("/chats/43", params={"prompt": "hello"})
        with Client(http=web) as client:
            answer = client.stream("http://app" + asked.json()["stream"]).follow()
            assert answer.read_items()[-1] == {"token": "it"}
