"""Runs over HTTP, without code of one's own."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from sources import SHORT_LEASE, Held

from durable_streams_runs import Runs, create_router
from durable_streams_server import Engine

WHO = {"authorization": "ada"}


@pytest.fixture
def held() -> Held:
    return Held()


@pytest.fixture
async def http(memory: Engine, held: Held) -> AsyncIterator[httpx.AsyncClient]:
    async def authorize(action: str, path: str, scope: Any) -> bool | int:
        user = dict(scope["headers"]).get(b"authorization", b"").decode()
        return path.startswith(f"{user}/") and action != "delete" if user else 401

    async with Runs(memory, root="/streams", lease=SHORT_LEASE) as runs:

        @runs.task()
        def answer(prompt: str) -> Any:
            assert prompt == "hello"
            return held.stream()

        app = create_router(runs, authorize=authorize)
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app=app, root_path="/runs"),
            base_url="http://test/runs/",
            headers=WHO,
        ) as client:
            yield client


START = {"task": "answer", "args": {"prompt": "hello"}}


async def test_a_run_is_started_described_stopped_and_listed(
    http: httpx.AsyncClient, held: Held
) -> None:
    started = await http.post("ada/a b", json=START)
    running = {"id": "ada/a b", "url": "/streams/ada/a%20b", "status": "running"}
    assert (started.status_code, started.json()) == (201, running)
    assert (await http.post("ada/a b", json=START)).status_code == 200
    assert (await http.get("ada/a b")).json() == running
    stopped = await http.delete("ada/a b")
    assert (stopped.status_code, stopped.json()["status"]) == (200, "stopped")
    await held.cancelled.wait()
    listed = (await http.get("", params={"prefix": "ada/"})).json()
    assert listed == {"runs": [running | {"status": "stopped"}], "next": None}


async def test_access_is_checked_before_anything_is_told(http: httpx.AsyncClient) -> None:
    await http.post("ada/a", json=START)
    for headers, status in (({"authorization": ""}, 401), ({"authorization": "bob"}, 403)):
        for path in ("ada/a", "ada/none"):
            assert (await http.get(path, headers=headers)).status_code == status
            assert (await http.delete(path, headers=headers)).status_code == status
            assert (await http.post(path, content=b"?", headers=headers)).status_code == status
    assert (await http.get("", headers={"authorization": "bob"})).json()["runs"] == []


@pytest.mark.parametrize(
    "request_,status",
    [
        ({"content": b"{}"}, 415),
        ({"content": b'{"task":"answer"}', "headers": {"content-type": "text/plain"}}, 415),
        ({"json": {}}, 400),
        ({"json": {"task": "none"}}, 400),
        ({"json": {"task": "answer", "args": {"wrong": 1}}}, 400),
        ({"json": {"task": "answer", "more": 1}}, 400),
        ({"json": ["task"]}, 400),
        ({"content": b"\xff", "headers": {"content-type": "application/json"}}, 400),
        ({"content": b"[" * 200_000, "headers": {"content-type": "application/json"}}, 400),
        ({"content": b" " * 300_000, "headers": {"content-type": "application/json"}}, 413),
    ],
)
async def test_a_start_that_is_not_as_it_should_be_is_refused(
    http: httpx.AsyncClient, request_: dict[str, Any], status: int
) -> None:
    response = await http.post("ada/a", **request_)
    assert response.status_code == status
    assert response.json()["error"]["message"]
    assert (await http.get("ada/a")).status_code == 404


@pytest.mark.parametrize("limit", ["0", "-1", "x", "1001", "", "9" * 5000])
async def test_a_limit_is_a_small_number(http: httpx.AsyncClient, limit: str) -> None:
    assert (await http.get("", params={"limit": limit})).status_code == 400


async def test_other_methods_are_not_allowed(http: httpx.AsyncClient) -> None:
    response = await http.put("ada/a")
    assert (response.status_code, response.headers["allow"]) == (405, "GET, POST, DELETE")
    assert (await http.post("", json=START)).status_code == 405
