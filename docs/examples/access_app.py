"""An ASGI application whose streams are open to those who have a token.

uvicorn access_app:app

curl -X PUT localhost:8000/logs/a -H 'authorization: Bearer only-for-this-example'
"""

import os

from durable_streams_server import (
    Access,
    Limiter,
    PrincipalLimits,
    Rights,
    Token,
    create_asgi,
)

secret = os.environ.get("INGEST_SECRET", "only-for-this-example")

access = Access(
    tokens=[Token("ingest", Rights(write=["logs/**"]), secret=secret)],
    anonymous=Rights(read=["public/**"]),
)
limiter = Limiter(PrincipalLimits(appends_per_second=100, live_readers=50))

app = create_asgi("memory:", authorize=access, limiter=limiter)
