"""The ASGI app that the suite runs on uvicorn: the whole server at the root of an ASGI server."""

import os

from durable_streams_server import create_asgi

app = create_asgi(
    os.environ["CONFORMANCE_STORE"],
    root="/v1/stream",
    long_poll_timeout=float(os.environ["CONFORMANCE_LONG_POLL_SECONDS"]),
)
