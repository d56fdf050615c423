"""Hooks: an application's functions that are called with what happened to streams."""

import logging
from collections.abc import Callable, Iterable

from durable_streams_core.drafts import Draft
from durable_streams_core.entities import DELETED, LIVE, Commit

log = logging.getLogger("durable_streams_server.engine")

Hook = Callable[[str, str], None]
"""Called with what happened (``created``, ``closed``, ``deleted``, ``expired``) and the path."""


def call_hooks(hooks: Iterable[Hook], draft: Draft, commit: Commit) -> None:
    """Call every hook with each event of a commit; one that fails is logged."""
    for event in events_of(draft, commit):
        for hook in hooks:
            try:
                hook(event, draft.path)
            except Exception:
                log.exception("a hook failed on %s", event)


def ends_life(draft: Draft, commit: Commit) -> bool:
    """Whether a commit ended the life of a stream: by its lifetime if its guard has a deadline."""
    removed = draft.removed
    return commit.delta.state == DELETED or (removed is not None and removed.state == LIVE)


def events_of(draft: Draft, commit: Commit) -> list[str]:
    """The events of a commit, as an application counts them.

    A fork is created when it is confirmed. A source that was deleted does not count again when its
    last fork is gone.
    """
    delta = commit.delta
    events: list[str] = []
    created = delta.create
    if ends_life(draft, commit):
        events.append("expired" if commit.guard.deadline is not None else "deleted")
    confirmed = created is None and delta.state == LIVE
    if confirmed or (created is not None and created.state == LIVE):
        events.append("created")
    if confirmed:
        closed = draft.is_closed()
    else:
        closed = delta.close and (created is None or created.state == LIVE)
    if closed:
        events.append("closed")
    return events
