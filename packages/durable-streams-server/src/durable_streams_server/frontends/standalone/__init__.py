"""The command's own HTTP/1.1 server: an :class:`asyncio.Protocol` with a request reader of its own.

It exists because HTTP is this server's main job: between a socket and the handler stand one look
at the request head and one write, and no task. :mod:`.server` accepts connections and keeps their
time, :mod:`.connection` is one of them and :mod:`.sending` its sending half; :mod:`.receiver` turns
what a client sends into requests, with :mod:`.request_head` for their heads; :mod:`.bodies` holds
and bounds bodies that are being received; :mod:`.bounds` is what one client is given.
"""

from durable_streams_server.frontends.standalone.bounds import Bounds
from durable_streams_server.frontends.standalone.server import StandaloneServer

__all__ = ["Bounds", "StandaloneServer"]
