"""Says whether the servers would take a commit now, without making one.

``LPUSHX`` on a key that never is changes nothing, and Redis refuses it as it refuses a commit:
where the memory is full, on a replica, after a failed snapshot, with too few replicas.
"""

from collections.abc import Sequence
from typing import Final

from redis.exceptions import NoPermissionError, OutOfMemoryError

from durable_streams_core.entities import Refused
from durable_streams_redis.deployments import Deployment
from durable_streams_redis.durability import Durability, parse_durability
from durable_streams_redis.feeds import BLOCK_MILLISECONDS, Feed
from durable_streams_redis.schema import Shard
from durable_streams_redis.scripts import pack
from durable_streams_redis.servers import Lost, Reply, Unreachable

BEHIND_SECONDS: Final = BLOCK_MILLISECONDS / 1000 + 0.5
"""A feed that has not caught up for so long is behind; one on which all is quiet answers within
``BLOCK_MILLISECONDS``."""
_CONFIRM_SECONDS: Final = 0.5
"""How long replicas may take to confirm that they have what there is."""


async def probe_servers(
    deployment: Deployment,
    shards: Sequence[Shard],
    feeds: Sequence[Feed],
    durability: Durability,
) -> Refused | None:
    """Why a commit would be refused now, None if it would be stored and every process would learn
    of it soon.
    """
    asked = shards[:1] if deployment.one_server else shards
    confirm = parse_durability(durability.name, _CONFIRM_SECONDS)
    replies, confirmations = await deployment.send_all(
        [(shard.slot, pack(b"LPUSHX", shard.nothing, b"")) for shard in asked],
        last=confirm.last,
        patience=confirm.patience,
    )
    for reply, confirmation in zip(replies, confirmations, strict=True):
        refused = _refused(reply)
        if refused is not None:
            return refused
        if not durability.confirmed(confirmation):
            return Refused(
                "replicas-missing",
                f"Too few servers confirm what is stored; {durability.name} wants more.",
            )
    behind = max((feed.behind() for feed in feeds), default=0.0)
    if behind > BEHIND_SECONDS:
        return Refused(
            "feed-behind",
            f"What was stored in the last {behind:.0f} s may not have reached this server's live "
            "readers yet.",
        )
    return None


def _refused(reply: Reply) -> Refused | None:
    # A user who may not ask this may still commit.
    if not isinstance(reply, Exception) or isinstance(reply, NoPermissionError):
        return None
    text = str(reply) or type(reply).__name__
    if isinstance(reply, OutOfMemoryError):
        return Refused("storage-full", "Redis has reached its memory limit.")
    if isinstance(reply, Unreachable | Lost):
        return Refused("store-away", f"Redis cannot be reached ({text}).")
    return Refused("store-failed", f"Redis takes nothing now ({text}).")
