"""Runs over HTTP, without code of one's own."""

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from sources import SHORT_LEASE, Held, yielding

from durable_streams_client import AsyncAsgiTransport, AsyncClient, RetryPolicy
from durable_streams_runs import Limits, Runs, create_router
from durable_streams_server import Engine, create_asgi

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


@pytest.mark.parametrize(
    "limit",
    [
        "0",
        "-1",
        "x",
        "1001",
        "",
        "9" * 5000,
        "000000001" + "0" * 5000,
        "1\n",
        "1.0",
        "+1",
        "\u0661",
    ],
)
async def test_a_limit_is_a_small_number(http: httpx.AsyncClient, limit: str) -> None:
    response = await http.get("", params={"limit": limit})
    assert (response.status_code, response.json()["error"]["code"]) == (400, "invalid-limit")
    assert (await http.get("", params={"limit": "000000001"})).status_code == 200


@pytest.mark.parametrize("run_id", ["ada/../x", "ada/" + "x" * 1100, "runs/registry/0"])
async def test_an_id_that_no_run_can_have_is_refused(memory: Engine, run_id: str) -> None:
    async with Runs(memory, lease=SHORT_LEASE) as runs:
        runs.task(name="answer")(yielding)
        status, error = await answer_of(runs, "POST", run_id)
        assert status in (400, 414)
        assert error["code"] in ("invalid-path", "path-too-long")


async def answer_of(runs: Runs, method: str, run_id: str) -> tuple[int, Any]:
    """The status and the error of an answer. The path is sent as it is."""
    sent: list[Any] = []
    body = b'{"task": "answer", "args": {"items": []}}'

    async def receive() -> Any:
        return {"type": "http.request", "body": body}

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"content-type", b"application/json")]
    scope = {"type": "http", "method": method, "path": f"/{run_id}", "headers": headers}
    await create_router(runs)(scope, receive, send)
    return sent[0]["status"], json.loads(sent[1]["body"])["error"]


@pytest.mark.parametrize("status", [401, 403, 413, 502, None])
@pytest.mark.parametrize("method", ["POST", "GET", "DELETE"])
async def test_failures_of_the_server_are_told_to_the_log_alone(
    status: int | None, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    """``status`` is what the server answers about ``a``; with None it does not answer."""
    async with Engine("memory:") as engine:
        app = create_asgi(engine)

        async def server(request: httpx.Request) -> httpx.Response:
            if request.url.path != "/a":
                return await inner.handle_async_request(request)
            if status is None:
                raise httpx.ConnectError("10.0.0.1 does not answer")
            return httpx.Response(status, text="10.0.0.1 says secret")

        async with (
            AsyncAsgiTransport(app) as inner,
            httpx.AsyncClient(transport=httpx.MockTransport(server)) as web,
            AsyncClient("http://10.0.0.1/", http=web, retry=RetryPolicy(attempts=1)) as client,
            Runs(client, lease=60, limits=Limits(patience=0.05)) as runs,
        ):
            runs.task(name="answer")(yielding)
            answered, error = await answer_of(runs, method, "a")
            assert (answered, error["code"]) == (503, "unavailable")
            assert error["message"] == "The runs cannot be reached now. Try again later."
            assert "10.0.0.1" in caplog.text


async def test_other_methods_are_not_allowed(http: httpx.AsyncClient) -> None:
    response = await http.put("ada/a")
    assert (response.status_code, response.headers["allow"]) == (405, "GET, POST, DELETE")
    assert (await http.post("", json=START)).status_code == 405
