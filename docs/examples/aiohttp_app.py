"""An aiohttp application that runs jobs and streams their output.

python aiohttp_app.py

curl -X POST localhost:8080/jobs/7
curl -N 'localhost:8080/streams/jobs/7?offset=-1&live=sse'
"""

import asyncio
import sys
from collections.abc import AsyncIterator

from aiohttp import web

from durable_streams_server import Engine, create_app

STREAMS = web.AppKey("streams", Engine)
RUNNING = web.AppKey("running", set[asyncio.Task[None]])


async def run_job(streams: Engine, path: str) -> None:
    for step in range(1, 4):
        await streams.append(path, f"step {step} of 3\n")
        await asyncio.sleep(0.01)
    await streams.close_stream(path, "done\n")


async def start_job(request: web.Request) -> web.Response:
    streams = request.app[STREAMS]
    path = f"jobs/{request.match_info['job']}"
    await streams.create(path, content_type="text/plain")
    task = asyncio.create_task(run_job(streams, path))
    request.app[RUNNING].add(task)
    task.add_done_callback(request.app[RUNNING].discard)
    return web.json_response({"stream": f"/streams/{path}"}, status=202)


async def engine_of(app: web.Application) -> AsyncIterator[None]:
    """The application owns the engine, so it starts and stops it."""
    async with app[STREAMS]:
        yield


def application() -> web.Application:
    app = web.Application()
    app[STREAMS] = Engine("memory:")
    app[RUNNING] = set()
    app.cleanup_ctx.append(engine_of)
    app.router.add_post("/jobs/{job}", start_job)
    app.add_subapp("/streams", create_app(app[STREAMS]))
    return app


if __name__ == "__main__":
    web.run_app(
        application(), host="127.0.0.1", port=int(sys.argv[1]) if len(sys.argv) > 1 else 8080
    )
