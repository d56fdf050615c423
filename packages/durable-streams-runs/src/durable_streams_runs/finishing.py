"""Ends runs of other workers, and reads how runs ended.

The append that holds the end and closes the stream claims an odd epoch above the owner's.
"""

import asyncio
import secrets
from typing import Any, Final

from durable_streams_core.errors import Gone, NotFound
from durable_streams_runs.errors import NotARun
from durable_streams_runs.formats import JSON, TEXT, Format, Parser, parser_of
from durable_streams_runs.records import EPOCHS, Entry
from durable_streams_runs.states import End, Status
from durable_streams_runs.streams import (
    LONGEST_PAUSE,
    Lost,
    Streams,
    Why,
    persistently,
)

INTERRUPTED: Final = End(Status.INTERRUPTED)


class Finisher:
    """Ends and reads runs. ``formats`` are those that the service knows, by name."""

    def __init__(self, streams: Streams, formats: dict[str, Format]) -> None:
        self._streams = streams
        self._formats = formats

    def format_of(self, name: str) -> Format:
        """The format of that name; of one that only another version knows, the closest."""
        return self._formats.get(name) or (TEXT if name == TEXT.name else JSON)

    async def finish(self, entry: Entry, end: End) -> End:
        """End a run, whoever owns it. Returns the end that it has, which may be an earlier one.

        The stream is created if its owner died before that, so that nobody can run it later. Waits
        while the store is away. Raises what the streams raise if they refuse the end.
        """
        form = self.format_of(entry.format)
        data = form.end(end)
        epoch = odd_above(entry.epoch)
        again = False
        while True:
            writer = self._streams.writer(entry.id, form.content_type, epoch, again=again)
            try:
                await persistently(lambda: writer.close([], data))  # noqa: B023
            except Lost as lost:
                if lost.why is Why.CLOSED:
                    return await self.end_of(entry.id)
                if lost.why is Why.GONE:
                    if await self._create_ended(entry, form, data):
                        return end
                    continue
                if lost.why is Why.AWAY:
                    again = True
                    await asyncio.sleep(LONGEST_PAUSE)
                    continue
                newest = max(epoch, lost.epoch or 0)
                if not entry.has_epoch(newest):
                    return INTERRUPTED  # its stream was deleted, and another run has its id
                epoch, again = odd_above(newest), False
            else:
                return end
            finally:
                await writer.release()

    async def _create_ended(self, entry: Entry, form: Format, data: bytes) -> bool:
        return await persistently(
            lambda: self._streams.create(
                entry.id, form.content_type, data=data, ttl=entry.ttl, closed=True
            )
        )

    async def end_of(self, run_id: str) -> End:
        """The end of a run whose stream is closed.

        A stream that was closed by anybody else counts as interrupted, and so does one that is
        gone. Waits while the store is away.
        """
        try:
            return await persistently(lambda: self.read_end(run_id)) or INTERRUPTED
        except (NotFound, Gone, NotARun):
            return INTERRUPTED

    async def end_if_closed(self, run_id: str) -> End | None:
        """The end of a run, or None while its stream is open or is not there."""
        return await self.end_of(run_id) if await self.is_closed(run_id) else None

    async def is_closed(self, run_id: str) -> bool:
        """Whether the stream is there and closed."""
        try:
            return await persistently(lambda: self._streams.is_closed(run_id))
        except (NotFound, Gone):
            return False

    async def read_end(self, run_id: str) -> End | None:
        """The end that a stream holds as its last data, or None.

        Raises NotFound or Gone, and :class:`NotARun` for a stream of a type that no run has.
        """
        parsers = [form.parser() for form in await self._candidates(run_id)]
        async for batch in self._streams.read(run_id):
            for parser in parsers:
                parser.feed(batch.data)
        return next((parser.end for parser in parsers if parser.end), None)

    async def earlier_end(self, run_id: str) -> End | None:
        """The end of a run whose stream is there, or None where nothing is.

        Raises :class:`NotARun` for any other stream, and Gone or Unavailable.
        """
        try:
            end = await self.read_end(run_id) if await self._streams.is_closed(run_id) else None
        except NotFound:
            return None
        if end is None:
            raise NotARun(f"Another stream is at {run_id!r}, which is not a run.")
        return end

    async def is_unused(self, run_id: str, form: Format) -> bool:
        """Whether a stream for runs of this format is there, open and empty."""
        try:
            known = {each.name for each in await self._candidates(run_id)}
            if form.name not in known or await self._streams.is_closed(run_id):
                return False
            async for batch in self._streams.read(run_id):
                return not batch.data
            return True
        except (NotFound, Gone, NotARun):
            return False

    async def items(self, run_id: str, form: Format) -> list[Any]:
        """All output of a run so far; of a text run, its text in one piece."""
        parser = form.parser()
        found: list[Any] = []
        async for batch in self._streams.read(run_id):
            found += parser.feed(batch.data)
        return found

    async def parser(self, run_id: str, name: str | None) -> Parser:
        """A parser for a run, by the name of its format or else by its content type."""
        if name is not None:
            return self.format_of(name).parser()
        return parser_of(await self._candidates(run_id))

    async def _candidates(self, run_id: str) -> list[Format]:
        """The formats that a stream may have."""
        content_type = await self._streams.content_type(run_id)
        media_type = content_type.partition(";")[0].strip().lower()
        found = [
            form
            for form in self._formats.values()
            if form.content_type.partition(";")[0] == media_type
        ]
        if not found:
            raise NotARun(f"The stream at {run_id!r} is not a run: its type is {content_type}.")
        return found


def odd_above(epoch: int) -> int:
    """An odd epoch of the same run above ``epoch``, drawn at random.

    Two that end a run at once must not claim the same one: one that repeats an append whose
    outcome it does not know would take the other's end for its own.
    """
    first, last = (epoch + 1) | 1, epoch | (EPOCHS - 1)
    # From the lower half, so that there is room for others.
    return min(last, first + 2 * secrets.randbelow(max(1, (last - first) // 4)))
