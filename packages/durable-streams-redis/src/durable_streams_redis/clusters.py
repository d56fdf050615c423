"""The nodes of a Cluster, and which of them serves which slot.

All candidates are asked at once and the first good answer is used, so a node that hangs delays
nobody. An answer with an older epoch than the newest one seen is not good: a node that was cut off
or stopped tells an old state when it comes back.
"""

import asyncio
from asyncio import Task
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from redis.exceptions import AskError, MovedError

from durable_streams_redis.deployments import Deployment
from durable_streams_redis.meter import RedisMeter
from durable_streams_redis.scripts import pack
from durable_streams_redis.servers import MALFORMED, Server, Unreachable, parse_info
from durable_streams_redis.settings import Address

_ASKED_AT_ONCE: Final = 8
_QUESTIONS: Final = (pack(b"CLUSTER", b"SLOTS"), pack(b"CLUSTER", b"INFO"))

Place = tuple[str, int]
"""A host and a port."""


class Cluster(Deployment):
    """The nodes of a Cluster."""

    one_server = False
    question_seconds = 1.0

    def __init__(
        self,
        address: Address,
        seeds: Sequence[Address],
        *,
        connections: int,
        timeout: float,
        meter: RedisMeter,
    ) -> None:
        super().__init__(address, connections=connections, timeout=timeout, meter=meter)
        self._seeds = [(seed.host, seed.port) for seed in seeds]
        self._nodes: dict[Place, Server] = {}
        """Connections for questions, to all nodes that are known."""
        self._asking: dict[Place, Task[str]] = {}
        self._turn = 0
        self._pools: dict[Place, Server] = {}
        self._ranges: list[tuple[int, int, Server]] = []
        self._found: dict[int, Server] = {}
        self._epoch = -1

    def _pool_at(self, host: str, port: int) -> Server:
        server = self._pools.get((host, port))
        if server is None:
            server = self._pools[host, port] = self._pool(self._address.at(host, port))
        return server

    async def server_of(self, slot: int) -> Server:
        server = self._found.get(slot)
        if server is not None:
            return server
        for _ in range(2):
            for first, final, server in self._ranges:
                if first <= slot <= final:
                    self._found[slot] = server
                    return server
            await self.discover()
        raise Unreachable(f"no node of the Cluster serves slot {slot}")

    async def masters(self) -> Sequence[Server]:
        if not self._ranges:
            await self.discover()
        return list(dict.fromkeys(server for _, _, server in self._ranges))

    async def redirected(self, error: AskError, sender: Server) -> Server | None:
        if isinstance(error, MovedError):
            self.discover_soon()
        return self._pool_at(error.host or sender.address.host, error.port)

    async def _discover(self) -> None:
        self._watch()
        candidates = list(dict.fromkeys([*self._nodes, *self._seeds]))
        begin = self._turn % len(candidates) if candidates else 0
        self._turn += _ASKED_AT_ONCE
        pending = {
            self._ask(place)
            for place in [*candidates[begin:], *candidates[:begin]][:_ASKED_AT_ONCE]
        }
        said = "no node is configured"
        while pending:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                if not task.result():
                    return
                said = task.result()
        raise Unreachable(said)

    def _ask(self, place: Place) -> Task[str]:
        """Ask a node, unless it still owes an answer."""
        task = self._asking.get(place)
        if task is None:
            node = self._nodes.get(place)
            if node is None:
                node = self._nodes[place] = self.aside(self._address.at(*place))
            task = self._asking[place] = asyncio.create_task(self._learn_from(node))
            task.add_done_callback(lambda _: self._asking.pop(place, None))
        return task

    async def _learn_from(self, node: Server) -> str:
        """The fault of a node's answer; empty where it was good and is in use now."""
        try:
            slots, info = await node.send(_QUESTIONS)
        except Unreachable as error:
            return str(error)
        for reply in (slots, info):
            if isinstance(reply, Exception):
                return f"{node.name}: {reply}"
        try:
            epoch = int(parse_info(info).get("cluster_current_epoch", "0"))
            ranges = _ranges_in(slots, node.address.host)
        except MALFORMED:
            return f"{node.name} does not answer as a node of a Cluster does"
        if not ranges:
            return f"{node.name} serves no slots"
        if epoch < self._epoch:
            return f"{node.name} has an older configuration than others"
        await self._use(ranges, epoch)
        return ""

    async def _use(self, ranges: Sequence["SlotRange"], epoch: int) -> None:
        before = {server for _, _, server in self._ranges}
        self._epoch = epoch
        self._ranges = [(each.first, each.last, self._pool_at(*each.nodes[0])) for each in ranges]
        self._found.clear()
        replaced = before.difference(server for _, _, server in self._ranges)
        known = {node for each in ranges for node in each.nodes}
        known.update(self._seeds)
        gone = [place for place in self._nodes if place not in known]
        for place in known.difference(self._nodes):
            self._nodes[place] = self.aside(self._address.at(*place))
        self._pools = {
            place: server for place, server in self._pools.items() if server not in replaced
        }
        for server in (*replaced, *(self._nodes.pop(place) for place in gone)):
            await server.retire()

    async def close(self) -> None:
        await super().close()
        tasks = tuple(self._asking.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for server in (*self._pools.values(), *self._nodes.values()):
            await server.close()


class SlotRange(NamedTuple):
    """Consecutive slots, and the nodes that hold them, the master first."""

    first: int
    last: int
    nodes: Sequence[Place]


def _ranges_in(slots: Sequence[Any], asked: str) -> list[SlotRange]:
    """From the reply to CLUSTER SLOTS; a node that does not know its host is the one asked."""
    ranges = []
    for first, last, *nodes in slots:
        places = [((host or b"").decode() or asked, int(port)) for host, port, *_ in nodes]
        if not places:
            raise ValueError("slots without a node")
        ranges.append(SlotRange(int(first), int(last), places))
    return ranges
