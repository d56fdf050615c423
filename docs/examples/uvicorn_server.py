"""uvicorn that ends live responses: live readers are told before it waits for them to end.

    python uvicorn_server.py [PORT]

By itself uvicorn waits for every open event stream, and then cuts it.
"""

import socket
import sys

import uvicorn
from fastapi import FastAPI

from durable_streams_server import Engine, create_asgi

streams = Engine("memory:")
served = create_asgi(streams)
app = FastAPI(lifespan=streams.lifespan)
app.mount("/streams", served)


class Server(uvicorn.Server):
    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await served.close()  # event streams end as if they rotated, long-polls are answered
        await super().shutdown(sockets)


if __name__ == "__main__":
    Server(uvicorn.Config(app, port=int(sys.argv[1]) if len(sys.argv) > 1 else 8000)).run()
