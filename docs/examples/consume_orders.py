"""Sums up orders in a database, each exactly once, however often it is killed.

python consume_orders.py http://127.0.0.1:4437/v1/stream/orders totals.sqlite
"""

import sqlite3
import sys

from durable_streams_client import START, Client


def consume(url: str, path: str) -> None:
    database = sqlite3.connect(path)
    database.execute("CREATE TABLE IF NOT EXISTS totals (item TEXT PRIMARY KEY, amount INTEGER)")
    database.execute("CREATE TABLE IF NOT EXISTS places (stream TEXT PRIMARY KEY, place TEXT)")
    row = database.execute("SELECT place FROM places WHERE stream = ?", [url]).fetchone()
    with Client() as client:
        for batch in client.stream(url).follow(row[0] if row else START, max_items=100):
            with database:  # one transaction: the effects of the batch, and the place after it
                for order in batch:
                    database.execute(
                        "INSERT INTO totals VALUES (:item, :amount)"
                        " ON CONFLICT (item) DO UPDATE SET amount = amount + excluded.amount",
                        order,
                    )
                database.execute("REPLACE INTO places VALUES (?, ?)", [url, batch.offset])


if __name__ == "__main__":
    consume(*sys.argv[1:])
