"""Ports for servers that start later, or start again, where a name of the port is needed before."""

import socket


def free_port() -> int:
    """A port at which nothing listens, and which the system gives to nobody else.

    A socket holds it to the end of this process. A server still gets it, because such sockets and
    listening ones may share a port if they allow addresses to be reused, as all our servers do.
    """
    holder = socket.socket()
    holder.bind(("127.0.0.1", 0))
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    port: int = holder.getsockname()[1]
    holder.detach()
    return port
