from collections.abc import AsyncIterable
from secrets import token_hex

from fastapi.responses import Response, StreamingResponse

from durable_streams_runs import Runs
from durable_streams_runs.adapters.vercel import HEADERS, UI_MESSAGES, events, sse


async def ask(runs: Runs, chat: str, text: AsyncIterable[str]) -> Response:
    run = await runs.start(f"chats/{chat}/{token_hex(8)}", events(text), output=UI_MESSAGES)
    return StreamingResponse(sse(run.follow()), headers=HEADERS)


async def resume(runs: Runs, chat: str) -> Response:
    for info in await runs.list(f"chats/{chat}/", limit=1_000):
        if info.status == "running":
            return StreamingResponse(sse(runs.follow(info.id)), headers=HEADERS)
    return Response(status_code=204)
