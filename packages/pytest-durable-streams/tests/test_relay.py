"""The relay between clients and the server leaves nothing behind."""

import asyncio
import gc
import socket

from pytest_durable_streams.relay import Relay


def test_a_relay_that_stops_while_it_accepts_leaves_no_socket_open() -> None:
    """pytest makes an error of each socket that is collected open."""

    async def start_and_stop() -> None:
        relay = Relay(1)
        await relay.start()
        clients = [socket.create_connection(("127.0.0.1", relay.port)) for _ in range(3)]
        await relay.stop()
        for client in clients:
            client.close()

    for _ in range(20):
        asyncio.run(start_and_stop())
    gc.collect()
