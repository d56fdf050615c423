"""An aiohttp application whose users read their own streams, known by a cookie.

python cookies_app.py 8000

curl -c jar -X POST localhost:8000/login?name=ada
curl -b jar localhost:8000/streams/ada/inbox
"""

import secrets
import sys
from collections.abc import AsyncIterator

from aiohttp import web

from durable_streams_server import Engine, create_app

streams = Engine("memory:")
users: dict[str, str] = {}


def authorize(action: str, path: str, request: web.Request) -> bool | int:
    user = users.get(request.cookies.get("session", ""))
    if user is None:
        return 401
    return action in ("read", "head") and path.startswith(f"{user}/")


async def login(request: web.Request) -> web.Response:
    session, user = secrets.token_urlsafe(), request.query["name"]
    users[session] = user
    await streams.create(f"{user}/inbox", content_type="application/json")
    response = web.Response()
    response.set_cookie("session", session, httponly=True, samesite="Strict")
    return response


async def run(_app: web.Application) -> AsyncIterator[None]:
    async with streams:
        yield


app = web.Application()
app.router.add_post("/login", login)
app.add_subapp("/streams", create_app(streams, authorize=authorize))
app.cleanup_ctx.append(run)

if __name__ == "__main__":
    web.run_app(app, port=int(sys.argv[1]), host="127.0.0.1", handler_cancellation=True)
