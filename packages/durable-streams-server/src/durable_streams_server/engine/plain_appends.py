"""Plain appends: those that add data and nothing else are decided on the head, without a draft."""

import logging
from collections.abc import Mapping

from durable_streams_core.drafts import Growth
from durable_streams_core.entities import Facts
from durable_streams_core.errors import ProtocolError
from durable_streams_core.operations import Append, Appended
from durable_streams_core.store import ImmediateStore, LocalStore
from durable_streams_server.engine.quotas import Quotas
from durable_streams_server.engine.refusals import STORE_FAILED, decision_failed, outcome_unknown

log = logging.getLogger("durable_streams_server.engine")


def append_nowait(
    store: ImmediateStore, path: str, operation: Append, facts: Facts, quotas: Quotas | None
) -> Appended | None:
    """Append at once where nothing but data is added; None if a commit is needed."""
    added = added_by(store, operation, facts)
    if added is None:
        return None
    data, fields = added
    head = facts.head
    if quotas is not None:
        quotas.check(path, head, len(data))
    try:
        if not store.append_nowait(path, head, data, fields):
            return None
    except Exception:
        log.exception(STORE_FAILED)
        raise outcome_unknown() from None
    if quotas is not None:
        quotas.add(path, Growth(len(data), 0))
    return appended_by(operation, head.tail + len(data), head.timeline)


def appended_by(operation: Append, tail: int, timeline: bytes) -> Appended:
    """The result of an append that was stored and only added data, which ends at ``tail``."""
    producer = operation.producer
    if producer is None:
        return Appended(tail, False, False, -1, -1, timeline)
    return Appended(tail, False, False, producer.epoch, producer.seq, timeline)


def added_by(
    store: LocalStore, operation: Append, facts: Facts
) -> tuple[bytes, Mapping[str, bytes | None]] | None:
    """The bytes and fields of an append that adds nothing else; None if a draft is needed."""
    try:
        # Without a deadline and a producer nobody asks what time it is.
        timed = facts.head.deadline or operation.producer is not None
        return operation.added_to(facts, store.now() if timed else 0)
    except ProtocolError:
        raise
    except Exception as error:
        raise decision_failed(operation, error) from None
