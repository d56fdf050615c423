"""The records of the registry, and their form as JSON messages.

``w`` is the worker that appended the record and ``n`` its number, which rises by one for each.
"""

import logging
from typing import Any, Final

import msgspec

from durable_streams_core.errors import InvalidRequest
from durable_streams_core.json_messages import split_json
from durable_streams_runs.states import Status

log = logging.getLogger("durable_streams_runs")


EPOCHS: Final = 2**20
"""Epochs of one run. Those of a later run are all higher, so that nobody takes its stream for that
of an earlier run of the same id.
"""


class Record(msgspec.Struct, frozen=True, kw_only=True, tag_field="t", omit_defaults=True):
    """The base of all records. A worker numbers its records from 1."""

    w: str = ""
    n: int = 0


class Join(Record, tag="join", frozen=True, kw_only=True):
    """A worker takes part. ``process`` names its process, and ``local`` says whether that process
    is the only one that uses the store.
    """

    process: str
    local: bool = False


class Beat(Record, tag="beat", frozen=True, kw_only=True):
    """A worker lives."""


class Leave(Record, tag="leave", frozen=True, kw_only=True):
    """A worker shuts down. Its runs are free to be taken."""


class Start(Record, tag="start", frozen=True, kw_only=True):
    """A worker wants to run. ``task`` is set for a run that can be restarted, ``args`` are its
    arguments.
    """

    id: str
    format: str
    ttl: int | None = None
    task: str | None = None
    args: dict[str, Any] | None = None


class Ended(Record, tag="end", frozen=True, kw_only=True):
    """A run ended: the one of this ``number``, and not another that has its id by now."""

    id: str
    number: int
    status: Status
    error: str | None = None


class Drop(Record, tag="drop", frozen=True, kw_only=True):
    """A run of the worker that appends this has no stream, and its id is free."""

    id: str
    number: int


class Forget(Record, tag="forget", frozen=True, kw_only=True):
    """The stream of an ended run was deleted, and its id is free.

    It says nothing of a running run: one may have been started under that id meanwhile.
    """

    id: str


class Take(Record, tag="take", frozen=True, kw_only=True):
    """A worker takes over the runs of another, which is out from then on."""

    worker: str


class Sync(Record, tag="sync", frozen=True, kw_only=True):
    """Nothing: its worker wants to know when it has read everything before it."""


class Rotate(Record, tag="rotate", frozen=True, kw_only=True):
    """The last record of a generation; the stream is closed with it."""


class Member(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A worker in the ledger. ``n`` is the number of its last record."""

    worker: str
    process: str
    n: int = 0
    local: bool = False
    left: bool = False


class Entry(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A running run in the ledger.

    ``number`` counts the runs that the service has started, so that two of one id differ.
    ``owners`` counts the workers that owned it before this one.
    """

    id: str
    number: int
    worker: str
    format: str
    owners: int = 0
    ttl: int | None = None
    task: str | None = None
    args: dict[str, Any] | None = None

    @property
    def epoch(self) -> int:
        """The epoch of its owner in the stream of the run."""
        return self.number * EPOCHS + 2 * self.owners

    def has_epoch(self, epoch: int) -> bool:
        """Whether an epoch is one of this run, and not of another with its id."""
        return epoch // EPOCHS == self.number


class Snapshot(Record, tag="snapshot", frozen=True, kw_only=True):
    """The first record of each generation: everything that the one before it said.

    ``parts`` is the path of another stream that holds it in several records, if it is large.
    """

    parts: str | None = None
    members: list[Member] = []
    entries: list[Entry] = []
    ended: list[tuple[str, Status, str | None]] = []
    started: int = 0


_UNION = Join | Beat | Leave | Start | Ended | Drop | Forget | Take | Sync | Rotate | Snapshot
_PAGE: Final = msgspec.json.Decoder(list[_UNION])
_ONE: Final = msgspec.json.Decoder(_UNION)
_ENCODER: Final = msgspec.json.Encoder()


def encode_record(record: Record) -> bytes:
    """A record as one message."""
    return _ENCODER.encode(record)


def decode_records(page: bytes) -> list[Any]:
    """The records of a page; messages that are none are left out, and logged."""
    try:
        return _PAGE.decode(page)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    try:
        messages = split_json(page)
    except InvalidRequest:
        log.warning("The registry holds data that is not JSON; it is ignored.")
        return []
    found = []
    for message in messages:
        try:
            found.append(_ONE.decode(message))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            log.warning("The registry holds a message that is not a record; it is ignored.")
    return found
