"""A page that shows the progress of a job, however often it is reloaded.

    python job_app.py 8000

The job writes its progress to a stream and closes it at the end. The page is a bare
``EventSource``: no library, no state of its own.
"""

import asyncio
import sys
from collections.abc import AsyncIterator

from aiohttp import web

from durable_streams_server import Engine, create_app

streams = Engine("memory:")

PAGE = """<!doctype html><title>Job</title>
<progress max="100"></progress> <output></output>
<script>
  const source = new EventSource('/streams/jobs/1?offset=-1&live=sse')
  source.addEventListener('data', event => {
    const { percent, note } = JSON.parse(event.data).at(-1)
    document.querySelector('progress').value = percent
    document.querySelector('output').textContent = note
  })
</script>"""


async def job() -> None:
    await streams.create("jobs/1", content_type="application/json")
    for percent in range(0, 101, 5):
        await streams.append("jobs/1", {"percent": percent, "note": f"{percent} % done"})
        await asyncio.sleep(0.1)
    await streams.close_stream("jobs/1")


async def page(_request: web.Request) -> web.Response:
    return web.Response(text=PAGE, content_type="text/html")


async def run(application: web.Application) -> AsyncIterator[None]:
    async with streams:
        application["job"] = asyncio.create_task(job())
        yield


app = web.Application()
app.router.add_get("/", page)
app.add_subapp("/streams", create_app(streams))
app.cleanup_ctx.append(run)

if __name__ == "__main__":
    web.run_app(app, port=int(sys.argv[1]), host="127.0.0.1", handler_cancellation=True)
