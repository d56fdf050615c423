"""The tests' own server: it leaves nothing behind for which another test would be blamed."""

import gc
import socket

from hostile import Hostile


def test_a_server_that_stops_while_it_accepts_leaves_no_socket_open() -> None:
    """pytest makes an error of each socket that is collected open."""
    for _ in range(20):
        with Hostile() as server:
            clients = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(3)]
        for client in clients:
            client.close()
    gc.collect()
