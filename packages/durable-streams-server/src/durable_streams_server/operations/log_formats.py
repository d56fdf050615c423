"""How the command writes its log: as text or as JSON, one line for each event, without secrets."""

import logging
import time
from collections.abc import Iterable
from typing import Final

import msgspec

from durable_streams_server.operations.access_log import LOGGER, Entry

_TEXT: Final = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_HIDDEN: Final = "***"
_encode: Final = msgspec.json.Encoder().encode
MIN_SECRET: Final = 4
"""Shorter secrets are found in too many words to be taken out of lines."""


class LineFormatter(logging.Formatter):
    """Text. A message is one line; only a traceback follows it on lines of its own.

    ``secrets`` are taken out wherever they come up, for as long as the process runs.
    """

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        super().__init__(_TEXT)
        self._secrets: list[str] = []
        self._hidden: dict[str, tuple[frozenset[str], frozenset[str]]] = {}
        """The secrets of each source as they are, and as they were before."""
        self.hide("", secrets)
        self._second = 0
        self._shown = ""
        """The last second that was shown, and how: to format it costs more than the rest."""

    def hide(self, source: str, secrets: Iterable[str]) -> None:
        """Take the secrets of a source out of lines too. Its secrets from before stay hidden until
        they change again, because clients still send them.
        """
        now = frozenset(secret for secret in secrets if len(secret) >= MIN_SECRET)
        last, _ = self._hidden.get(source, (frozenset[str](), None))
        if now != last:
            self._hidden[source] = now, last
            every = frozenset[str]().union(
                *(each for pair in self._hidden.values() for each in pair)
            )
            # The longest first: one secret may be a part of another.
            self._secrets = sorted(every, key=len, reverse=True)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - of the library
        record.message = one_line(record.message)
        return super().formatMessage(record)

    def format(self, record: logging.LogRecord) -> str:
        return self._without_secrets(super().format(record))

    def format_entry(self, entry: Entry, now: float) -> str:
        """The line of a request that ended at ``now``, in seconds since 1970, as :meth:`format`
        writes a record of it.
        """
        begin, milliseconds = self._time(now)
        line = f"{begin},{milliseconds:03d} INFO {LOGGER}: {entry}"
        return self._without_secrets(line) if self._secrets else line

    def _time(self, now: float) -> tuple[str, int]:
        """The second as it is shown, and the milliseconds."""
        second = int(now)
        if second != self._second:
            self._shown = self._show(second)
            self._second = second
        return self._shown, int((now - second) * 1000)

    def _show(self, second: int) -> str:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(second))

    def _without_secrets(self, line: str) -> str:
        for secret in self._secrets:
            if secret in line:
                line = line.replace(secret, _HIDDEN)
        return line


class JsonFormatter(LineFormatter):
    """One JSON object on one line: ``time`` in UTC, ``level``, ``logger``, and ``message``, or the
    fields of a request.
    """

    def format(self, record: logging.LogRecord) -> str:
        args = record.args
        if isinstance(args, tuple) and len(args) == 1 and isinstance(args[0], Entry):
            return self.format_entry(args[0], record.created)
        begin, milliseconds = self._time(record.created)
        line = {
            "time": f"{begin}.{milliseconds:03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        encoded = msgspec.json.encode(line, enc_hook=str).decode(errors="replace")
        return self._without_secrets(encoded)

    def format_entry(self, entry: Entry, now: float) -> str:
        begin, milliseconds = self._time(now)
        fields = _encode(entry).decode()[1:]
        line = f'{{"time":"{begin}.{milliseconds:03d}Z","level":"info","logger":"{LOGGER}",{fields}'
        return self._without_secrets(line) if self._secrets else line

    def _show(self, second: int) -> str:
        return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))


def one_line(message: str) -> str:
    """A message whose control characters are spelled out, so that it stays one line."""
    if message.isprintable():
        return message
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in message
    )


class RepeatedFaults(logging.Filter):
    """Lets a fault that repeats through a few times a minute, and then says how often it came.

    A fault is a place in the program that logs a warning or an error. Other records always pass.
    """

    EACH: Final = 10
    SECONDS: Final = 60.0

    def __init__(self) -> None:
        super().__init__()
        self._seen: dict[tuple[str, int], tuple[float, int]] = {}
        """Of each place, when its minute began and how many records came since."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.WARNING:
            return True
        place = (record.pathname, record.lineno)
        began, count = self._seen.get(place, (record.created, 0))
        if record.created - began >= self.SECONDS:
            left_out = count - self.EACH
            if left_out > 0:
                record.msg = f"{record.getMessage()} ({left_out} more like it were left out)"
                record.args = ()
            began, count = record.created, 0
        self._seen[place] = (began, count + 1)
        return count < self.EACH
