"""Moves messages from a queue to a stream, each exactly once, however often it is killed.

python publish_outbox.py http://127.0.0.1:4437/v1/stream/events outbox.sqlite

The queue is a table here, which an application fills in its own transactions. Any queue will do
that gives each message a number which rises.
"""

import sqlite3
import sys
from contextlib import suppress

from durable_streams_client import Client, SequenceConflict


def publish(url: str, path: str) -> None:
    queue = sqlite3.connect(path)
    with Client() as client:
        events = client.stream(url)
        events.create(content_type="application/json")
        for number, body in queue.execute("SELECT id, body FROM outbox ORDER BY id").fetchall():
            # The conflict says that an earlier run was killed between the append and the removal.
            with suppress(SequenceConflict):
                events.append(body.encode(), seq=f"{number:020}")  # text that rises as the number
            with queue:
                queue.execute("DELETE FROM outbox WHERE id = ?", [number])


if __name__ == "__main__":
    publish(*sys.argv[1:])
