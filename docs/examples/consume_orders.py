"""Sums up orders in a database, each exactly once, however often it is killed.

python consume_orders.py http://127.0.0.1:4437/v1/stream/orders totals.sqlite
"""

import sqlite3
import sys

from durable_streams_client import Client, SqliteCheckpoint

ADD = """INSERT INTO totals VALUES (:item, :amount)
    ON CONFLICT (item) DO UPDATE SET amount = amount + excluded.amount"""


def consume(url: str, path: str) -> None:
    database = sqlite3.connect(path)
    database.execute("CREATE TABLE IF NOT EXISTS totals (item TEXT PRIMARY KEY, amount INTEGER)")
    # Saving the place on the same connection commits the orders before it with it.
    place = SqliteCheckpoint(database, url)
    with Client() as client:
        for order in client.stream(url).follow(checkpoint=place, save_every=100).items():
            database.execute(ADD, order)


if __name__ == "__main__":
    consume(*sys.argv[1:])
