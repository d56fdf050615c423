"""Takes over the stream of a run that goes on in another process."""

import asyncio

from durable_streams_runs.formats import Format
from durable_streams_runs.records import Entry
from durable_streams_runs.streams import FIRST_PAUSE, Lost, Streams, Why, Writer, persistently


async def claim(streams: Streams, entry: Entry, form: Format) -> Writer:
    """A writer whose first append, which says that the run was restarted, fenced earlier owners.

    Waits while the store is away. Raises :class:`Lost` if the run has ended, or has a newer owner.
    """
    mark = form.restart()
    assert mark is not None
    again = False
    while True:
        writer = streams.writer(entry.id, form.content_type, entry.epoch, again=again)
        try:
            await persistently(lambda: writer.append([mark]))  # noqa: B023
        except BaseException as error:
            await writer.release()
            if not isinstance(error, Lost) or error.why not in (Why.GONE, Why.AWAY):
                raise
            if error.why is Why.AWAY:
                again = True
                await asyncio.sleep(FIRST_PAUSE)
                continue
        else:
            return writer
        # Its owner died before it had created the stream.
        await persistently(lambda: streams.create(entry.id, form.content_type, ttl=entry.ttl))
