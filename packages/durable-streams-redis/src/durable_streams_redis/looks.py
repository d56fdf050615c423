"""Looks at the heads of streams: all looks of one turn of the event loop go out together, as native
commands, and nothing is made for each but its callback.

A replica answers native reads, from the past. So each pipeline begins and ends with a command that
changes nothing and that only a master takes. A look that meets anything but an answer, such as
a redirection, is asked again in the way that follows redirections.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Final

from durable_streams_core.entities import Facts, Head
from durable_streams_redis.deployments import Deployment
from durable_streams_redis.schema import Shard
from durable_streams_redis.scripts import HEAD_FIELDS, HeadReply, head_of, pack
from durable_streams_redis.servers import Reply, Server, Unreachable

logger = logging.getLogger(__name__)

MOST_AT_ONCE: Final = 256
"""Looks that share a pipeline at most."""
MOST_PIPELINES: Final = 4
"""How many are under way at the same time: the more wait, the more share one."""
MEMORY: Final = 16 * 1024 * 1024
"""Bytes that the remembered heads may take, about."""
_OF_ONE: Final = 1024
"""Bytes of a remembered head beside its texts, about."""

Done = Callable[[Head | Exception | None], None]


class Stream:
    """One stream, as it is remembered: the command for its head, and the latest answer."""

    __slots__ = ("command", "head", "path", "reply", "shard", "size", "timeline")

    def __init__(self, shard: Shard, path: str) -> None:
        self.shard = shard
        self.path = path
        self.command = pack(b"HMGET", shard.entity(path), *HEAD_FIELDS)
        self.reply: Sequence[bytes | None] = ()
        self.timeline = 0
        self.head: Head | None = None
        self.size = 0

    def head_in(self, reply: list[Any]) -> Head | None:
        """The head that a reply stands for: the very same one while the stream does not change."""
        if reply != self.reply or self.timeline != self.shard.timeline:
            self.head = None if reply[0] is None else head_of(self.shard, HeadReply(*reply))
            self.reply, self.timeline = reply, self.shard.timeline
        return self.head


class Looks:
    """Gathers looks. ``load`` asks for what was not answered here."""

    def __init__(
        self, deployment: Deployment, load: Callable[[str], Awaitable[Facts | None]]
    ) -> None:
        self._deployment = deployment
        self._load = load
        self._gathered: list[tuple[Stream, Done]] = []
        self._scheduled = False
        self._pipelines = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._known: OrderedDict[str, Stream] = OrderedDict()
        self._size = 0

    def add(self, shard: Shard, path: str, done: Done) -> None:
        """Call ``done`` with the head at a path, None where nothing is, or why nobody knows."""
        self._gathered.append((self._known.get(path) or Stream(shard, path), done))
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._flush)

    async def close(self) -> None:
        """Return when every look has its answer."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _flush(self) -> None:
        self._scheduled = False
        while self._gathered and self._pipelines < MOST_PIPELINES:
            some = self._gathered[:MOST_AT_ONCE]
            del self._gathered[:MOST_AT_ONCE]
            self._pipelines += 1
            self._spawn(self._send(some), self._landed)

    def _landed(self, _: object) -> None:
        self._pipelines -= 1
        self._flush()

    def _spawn(
        self, work: Coroutine[Any, Any, None], landed: Callable[[object], None] | None = None
    ) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if landed is not None:
            task.add_done_callback(landed)

    async def _send(self, looks: list[tuple[Stream, Done]]) -> None:
        if self._deployment.one_server:
            await self._send_to(await self._server_of(looks[0][0]), looks)
            return
        places: dict[Server | None, list[tuple[Stream, Done]]] = {}
        for look in looks:
            places.setdefault(await self._server_of(look[0]), []).append(look)
        # Nobody waits for a server that is slow to answer others.
        for server, some in places.items():
            self._spawn(self._send_to(server, some))

    async def _server_of(self, stream: Stream) -> Server | None:
        try:
            server = await self._deployment.server_of(stream.shard.slot)
        except Unreachable:
            return None
        return None if server.silent and not self._deployment.one_server else server

    async def _send_to(self, server: Server | None, looks: list[tuple[Stream, Done]]) -> None:
        replies: Sequence[Reply] = ()
        if server is not None:
            only_a_master = pack(b"PERSIST", looks[0][0].shard.run)
            commands = [only_a_master, *[stream.command for stream, _ in looks], only_a_master]
            try:
                replies = await server.ask(commands)
            except Unreachable:
                replies = ()
        if not replies or type(replies[0]) is not int or type(replies[-1]) is not int:
            for stream, done in looks:
                self._spawn(self._ask_alone(stream, done))
            return
        for (stream, done), reply in zip(looks, replies[1:-1], strict=True):
            if type(reply) is list:
                self._answer(stream, reply, done)
            else:
                self._spawn(self._ask_alone(stream, done))

    def _answer(self, stream: Stream, reply: list[Any], done: Done) -> None:
        found: Head | Exception | None
        try:
            found = stream.head_in(reply)
            if found is not None and not stream.size:
                self._remember(stream, found)
        except Exception as error:
            found = error
        _tell(done, found)

    def _remember(self, stream: Stream, head: Head) -> None:
        known = self._known
        stream.size = _OF_ONE + 3 * len(stream.command) + 2 * len(head.birth)
        self._size += stream.size
        before = known.pop(stream.path, None)
        known[stream.path] = stream
        if before is not None:
            self._size -= before.size
        while self._size > MEMORY:
            _, oldest = known.popitem(last=False)
            self._size -= oldest.size
            oldest.size = 0

    async def _ask_alone(self, stream: Stream, done: Done) -> None:
        found: Head | Exception | None
        try:
            facts = await self._load(stream.path)
            found = None if facts is None else facts.head
        except Exception as error:
            found = error
        _tell(done, found)


def _tell(done: Done, found: Head | Exception | None) -> None:
    try:
        done(found)
    except Exception:
        logger.exception("Looking at a stream failed")
