"""The FastAPI application that is measured: streams in memory, mounted below /v1/stream."""

from fastapi import FastAPI

from durable_streams_server import Engine, create_asgi

streams = Engine("memory:")
app = FastAPI(lifespan=streams.lifespan)
app.mount("/v1/stream", create_asgi(streams))
