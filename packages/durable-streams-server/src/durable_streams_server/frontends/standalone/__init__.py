"""The command's own HTTP/1.1 server: an :class:`asyncio.Protocol` on httptools (llhttp).

It exists because HTTP is this server's main job: between a socket and the handler stand a look at
the head and one write, and no task. :mod:`.connection` is one client, :mod:`.server` all of them
and their clock; :mod:`.heads` reads plain heads, :mod:`.inbound` feeds all else to llhttp,
:mod:`.strictness` is what a request must be beyond llhttp's own rules, :mod:`.request` one whose
head is complete; :mod:`.bounds` is what one client is given.
"""

from durable_streams_server.frontends.standalone.bounds import Bounds
from durable_streams_server.frontends.standalone.server import StandaloneServer

__all__ = ["Bounds", "StandaloneServer"]
