"""The whole programs of the documentation, killed where they say that they may be."""

import ast
import asyncio
import json
import random
import re
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

from durable_streams_client import Client
from pytest_durable_streams import Faults, StreamsServer

HERE = Path(__file__).parent
JSON = "application/json"
SECONDS = 60


def run(program: str | Path, *arguments: Any) -> str:
    done = subprocess.run(
        [sys.executable, HERE / program, *arguments],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert not done.stderr
    return done.stdout


def test_a_job_streams_its_output(streams_server: StreamsServer, streams_client: Client) -> None:
    code = "print('one', flush=True); print('two'); raise SystemExit(3)"
    run("stream_job.py", streams_server.url + "jobs/7", sys.executable, "-c", code)
    output = streams_client.stream("jobs/7").follow().read_text()
    assert output == "one\ntwo\n\nended with status 3\n"


def test_the_spans_of_orders_are_below_those_of_the_program(streams_server: StreamsServer) -> None:
    printed = run("traced_orders.py", streams_server.url)
    spans = [
        json.loads(span) for span in re.split(r"(?<=^})\n", printed, flags=re.MULTILINE) if span
    ]
    create, append, order = spans
    assert [create["name"], append["name"]] == ["PUT create", "POST append"]
    assert create["parent_id"] is None
    assert append["parent_id"] == order["context"]["span_id"]


def test_a_consumer_counts_each_order_once_however_often_it_is_killed(
    streams_faults: Faults, streams_client: Client, tmp_path: Path
) -> None:
    orders = streams_client.stream("orders")
    orders.create(content_type=JSON)
    orders.append_many({"item": f"item {n % 7}", "amount": n} for n in range(3000))
    arguments = [HERE / "consume_orders.py", streams_faults.url + "orders", tmp_path / "totals"]
    for _ in range(2):
        begun = streams_faults.delay(0, method="GET")
        with subprocess.Popen([sys.executable, *arguments]) as consumer:
            begun.wait(timeout=SECONDS)
            try:
                consumer.wait(random.uniform(0, 0.1))
            except subprocess.TimeoutExpired:
                consumer.kill()
    orders.close_stream()
    run(*arguments)
    totals = dict(sqlite3.connect(tmp_path / "totals").execute("SELECT * FROM totals"))
    assert totals == {f"item {k}": sum(range(k, 3000, 7)) for k in range(7)}


def test_a_queue_is_published_once_however_often_it_is_killed(
    streams_faults: Faults, streams_client: Client, tmp_path: Path
) -> None:
    queue = sqlite3.connect(tmp_path / "outbox")
    with queue:
        queue.execute("CREATE TABLE outbox (id INTEGER PRIMARY KEY, body TEXT)")
        queue.executemany(
            "INSERT INTO outbox (body) VALUES (?)", [[json.dumps({"n": n})] for n in range(20)]
        )
    arguments = [HERE / "publish_outbox.py", streams_faults.url + "events", tmp_path / "outbox"]
    for _ in range(2):
        stored = streams_faults.lose_response(method="POST")
        with subprocess.Popen([sys.executable, *arguments]) as publisher:
            stored.wait(timeout=SECONDS)
            publisher.kill()
    run(*arguments)
    assert streams_client.stream("events").read().read_items() == [{"n": n} for n in range(20)]
    assert queue.execute("SELECT count(*) FROM outbox").fetchone() == (0,)


def test_threads_report_to_an_event_loop(streams_server: StreamsServer) -> None:
    printed = run("asyncio_and_threads.py", streams_server.url + "work").splitlines()
    assert len(printed) == 33
    assert sum("done" in line for line in printed) == 3


async def test_a_notebook_runs_cell_by_cell(streams_server: StreamsServer) -> None:
    """As IPython runs it: all cells in one event loop, with `await` at the top."""
    text = (HERE / "notebook.py").read_text()
    names: dict[str, Any] = {}
    for cell in text.replace("http://127.0.0.1:4437/v1/stream/", streams_server.url).split("# %%"):
        code = compile(f"#{cell}", "cell", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        running = eval(code, names)  # noqa: S307 - it is our own
        if running is not None:
            await running
        if 'append({"text"' in cell:  # a person takes longer to run the next cell
            async with asyncio.timeout(SECONDS):
                while not names["seen"]:  # noqa: ASYNC110 - a notebook has no event to wait for
                    await asyncio.sleep(0.001)
    assert names["seen"] == names["rows"] == [{"text": "hello"}]
