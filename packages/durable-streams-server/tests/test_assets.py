"""Static files for browsers: the module ``follow.js`` and the console."""

from typing import Any

import pytest
from wire import Client

CONSOLE = {
    "console": "text/html; charset=utf-8",
    "console.js": "text/javascript; charset=utf-8",
    "console.css": "text/css; charset=utf-8",
}


async def test_the_module_is_served_to_everybody(serve: Any) -> None:
    client = await serve(token="secret")
    answer = await client.get("__ds/follow.js")
    assert answer.status == 200
    assert answer["content-type"] == "text/javascript; charset=utf-8"
    assert b"export async function follow" in answer.body
    assert answer["access-control-allow-origin"] == "*"
    assert (await client.head("__ds/follow.js")).status == 200


async def test_the_module_is_revalidated_and_not_sent_again(client: Client) -> None:
    answer = await client.get("__ds/follow.js")
    assert answer["cache-control"] == "no-cache"
    again = await client.get("__ds/follow.js", if_none_match=answer["etag"])
    assert (again.status, again.body) == (304, b"")


@pytest.mark.parametrize("method", ["PUT", "POST", "DELETE"])
async def test_files_cannot_be_written(client: Client, method: str) -> None:
    body = None if method == "DELETE" else b"x"
    answer = await client.request(method, "__ds/follow.js", {"content-type": "text/plain"}, body)
    assert answer.status == 405
    assert answer["allow"] == "GET, HEAD, OPTIONS"


async def test_the_console_is_off_by_default(client: Client) -> None:
    for path in CONSOLE:
        assert (await client.get("__ds/" + path)).status == 404


async def test_the_console_runs_no_script_but_its_own(serve: Any) -> None:
    client = await serve(console=True)
    for path, content_type in CONSOLE.items():
        answer = await client.get("__ds/" + path)
        assert (answer.status, answer["content-type"]) == (200, content_type)
    policy = (await client.get("__ds/console"))["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self';" in policy
    assert "unsafe" not in policy


@pytest.mark.parametrize("path", ["__ds/", "__ds/console/", "__ds/web/follow.js", "__ds/../x"])
async def test_nothing_else_is_served(serve: Any, path: str) -> None:
    client = await serve(console=True)
    assert (await client.get(path)).status in (400, 404)
