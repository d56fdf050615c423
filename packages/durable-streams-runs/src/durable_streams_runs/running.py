"""A run of this process: its source, its output, and its end."""

import asyncio
import logging
import secrets
from collections.abc import AsyncIterable, Callable
from contextlib import suppress
from typing import Any

from durable_streams_runs.errors import RunFailed
from durable_streams_runs.finishing import INTERRUPTED, Finisher
from durable_streams_runs.formats import Format
from durable_streams_runs.limits import Limits
from durable_streams_runs.output import Output, Spawn
from durable_streams_runs.records import Entry
from durable_streams_runs.states import End, Status
from durable_streams_runs.streams import Lost, Why, Writer

log = logging.getLogger("durable_streams_runs")


class Running:
    """Reads a source to its end and writes what it yields.

    ``on_end`` is called once: with the end of the run, or None if another process has the run now,
    or it is gone. ``spawn`` makes tasks.
    """

    def __init__(
        self,
        entry: Entry,
        source: AsyncIterable[Any],
        *,
        writer: Writer,
        form: Format,
        limits: Limits,
        finisher: Finisher,
        on_end: Callable[["Running", End | None], None],
        spawn: Spawn,
    ) -> None:
        self.entry = entry
        self._source = source
        self._limits = limits
        self._finisher = finisher
        self._on_end = on_end
        self._spawn = spawn
        self._output = Output(writer, form, limits, self._lost, spawn)
        self.is_gone = False
        """Whether the stream was deleted."""
        self._ended: asyncio.Future[End | None] = asyncio.get_running_loop().create_future()
        self._writing: asyncio.Task[None] | None = None
        self.task = spawn(self._run(), f"run {entry.id}")

    async def end(self, end: End) -> End | None:
        """End the run now and cancel its source: the end that holds, None if it is not ours."""
        final = await self._settle(end)
        self.task.cancel()
        return final

    async def ended(self) -> End | None:
        """Wait for the end: None if another process ends the run, or it is gone."""
        return await asyncio.shield(self._ended)

    async def flush(self) -> None:
        """Write what the source has yielded, and accept nothing more."""
        with suppress(Lost):
            await self._output.flush()

    def abandon(self) -> None:
        """Cancel the source and write nothing more: another process ended or owns the run."""
        self._resolve(None)
        self.task.cancel()

    def _lost(self) -> None:
        """An append found that this worker may write no more."""
        self.task.cancel()

    async def _run(self) -> None:
        try:
            end = await self._consume()
            if end is not None:
                await self._settle(end)
        finally:
            if self._ended.done():
                await self._output.release()
            await self._close_source()

    async def _consume(self) -> End | None:
        output = self._output
        try:
            async for item in self._source:
                if output.closed:
                    break
                await output.add(item)
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if output.closed:
                pass
            elif task is not None and task.cancelling():
                # The program is ending; the next process ends this run.
                raise
            else:
                return self._failure("was cancelled by itself", error)
        except Lost:
            pass
        except RunFailed as error:
            with suppress(Exception):  # an error of a source may be of any kind
                return End(Status.FAILED, str(error))
            return self._failure("raised", error)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            return self._failure("raised", error)
        if output.lost is not None:
            return INTERRUPTED
        return None if output.closed else End(Status.DONE)

    def _failure(self, what: str, error: BaseException) -> End:
        """An end that tells nothing of the error, but where its operator finds it."""
        reference = secrets.token_hex(4)
        log.error(
            "The source of the run %r %s (%s).", self.entry.id, what, reference, exc_info=error
        )
        return End(Status.FAILED, f"The run failed. Reference: {reference}")

    async def _settle(self, end: End) -> End | None:
        """Write the end, once: whoever comes later gets the same."""
        if self._writing is None and not self._ended.done():
            # In a task of its own, because the caller may be cancelled.
            self._writing = self._spawn(self._write(end), f"end of the run {self.entry.id}")
        return await self.ended()

    async def _write(self, end: End) -> None:
        final: End | None = None
        try:
            final = await self._finish(end)
        except Exception:
            # Nobody else can end it either.
            log.exception("The end of the run %r was not written.", self.entry.id)
            final = INTERRUPTED
        finally:
            self._resolve(final)
            await self._output.release()

    async def _finish(self, end: End) -> End | None:
        try:
            return await self._output.finish(end)
        except Lost as lost:
            return await self._after_loss(lost)

    async def _after_loss(self, lost: Lost) -> End | None:
        if lost.why in (Why.BROKEN, Why.AWAY):
            return await self._finisher.finish(self.entry, INTERRUPTED)
        end = None
        if lost.why is not Why.GONE:
            end = await self._finisher.end_if_closed(self.entry.id)
        self.is_gone = end is None and lost.why is not Why.FENCED
        return end

    def _resolve(self, final: End | None) -> None:
        if not self._ended.done():
            self._ended.set_result(final)
            try:
                self._on_end(self, final)
            except Exception:
                log.exception("The end of the run %r was not recorded.", self.entry.id)

    async def _close_source(self) -> None:
        close = getattr(self._source, "aclose", None)
        if close is None:
            return
        try:
            async with asyncio.timeout(self._limits.patience):
                await close()
        except (Exception, asyncio.CancelledError) as error:
            log.warning("The source of the run %r did not end: %r", self.entry.id, error)
