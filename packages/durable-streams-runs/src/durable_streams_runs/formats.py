"""How the output of a run and its end are written into the stream, and read back.

:data:`TEXT` and :data:`JSON` are the two that every service knows. A subclass of
:class:`JsonFormat` gives the end of a run another form, for clients that expect one.
"""

import codecs
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Final

from durable_streams_core.values import decode_page, encode_value
from durable_streams_runs.states import End, Status

__all__ = ["JSON", "TEXT", "Format", "JsonFormat", "Parser", "TextFormat"]

RUN_END: Final = "run-end"
RUN_RESTART: Final = "run-restart"
SEPARATOR: Final = "\x1e"
VISIBLE_SEPARATOR: Final = "\u241e"
MAX_RECORD: Final = 16 * 1024
"""Characters of a record in a text run; what is longer is text of a stream that is not a run."""


class Parser(ABC):
    """Reads the output of one run, piece by piece."""

    end: End | None = None
    """The end, if it is the last thing that was read."""

    @abstractmethod
    def feed(self, data: bytes) -> list[Any]:
        """The items in the next data of the stream; of a JSON stream ``data`` is an array."""

    @property
    def between_records(self) -> bool:
        """Whether another parser could go on from here."""
        return True


class Format(ABC):
    """One way to write a run. Every process of a service has to know it by its ``name``."""

    name: str
    """Names the format in the registry."""
    content_type: str
    """The content type of the run's stream."""

    @abstractmethod
    def encode(self, item: Any) -> bytes:
        """The bytes of an item; raises ``TypeError`` or ``ValueError`` for a wrong one."""

    @abstractmethod
    def end(self, end: End) -> bytes:
        """The bytes of the end: one message of a JSON stream, else bytes."""

    @abstractmethod
    def restart(self) -> bytes | None:
        """What says that the run was restarted, or None if runs of this format never are."""

    @abstractmethod
    def parser(self) -> Parser:
        """A new parser."""


class JsonFormat(Format):
    """One message for each item, and a last message that says how the run ended.

    To write the end in another form, give the subclass a ``name``, and override ``end`` and
    ``read_end``; override ``restart`` to return None if readers cannot take that message either.
    """

    name = "json"
    content_type = "application/json"

    def encode(self, item: Any) -> bytes:
        """One message; raises ``ValueError`` for a value that JSON cannot hold, and for messages of
        the types ``run-end`` and ``run-restart``.
        """
        message = encode_value(item)
        if (b'"run-' in message or b"\\u" in message) and _is_own(message):
            raise ValueError("messages of the types run-end and run-restart are the run's own")
        return message

    def end(self, end: End) -> bytes:
        """``{"type": "run-end", "status": …}``, with ``error`` if the run failed."""
        return encode_end(end)

    def read_end(self, message: Any) -> End | None:
        """The end that a message stands for, or None if it is output."""
        return decode_end(message)

    def restart(self) -> bytes | None:
        """``{"type": "run-restart"}``."""
        return encode_value({"type": RUN_RESTART})

    def parser(self) -> Parser:
        """A parser that takes arrays of messages."""
        return _JsonParser(self)


class TextFormat(Format):
    """Text without envelopes, and records after U+001E that say what happened to the run."""

    name = "text"
    content_type = "text/plain; charset=utf-8"

    def encode(self, item: Any) -> bytes:
        """The UTF-8 of a ``str``, in which U+001E becomes U+241E; raises ``TypeError`` for any
        other item, and ``UnicodeEncodeError`` for lone surrogates.
        """
        if not isinstance(item, str):
            raise TypeError(f"a text run takes str, not {type(item).__name__}")
        if SEPARATOR in item:
            item = item.replace(SEPARATOR, VISIBLE_SEPARATOR)
        encoded: bytes = item.encode()
        return encoded

    def end(self, end: End) -> bytes:
        """U+001E, the end as JSON, and a line feed."""
        return _text_record(encode_end(end))

    def restart(self) -> bytes | None:
        """U+001E, ``{"type": "run-restart"}``, and a line feed."""
        return _text_record(encode_value({"type": RUN_RESTART}))

    def parser(self) -> Parser:
        """A parser that takes bytes, cut anywhere."""
        return _TextParser()


JSON: Final = JsonFormat()
TEXT: Final = TextFormat()


def parser_of(forms: Sequence[Format]) -> Parser:
    """A parser for a run that has one of these formats, which share a content type."""
    known = [form for form in forms if isinstance(form, JsonFormat)]
    return _JsonParser(*known) if len(known) == len(forms) else forms[0].parser()


def encode_end(end: End) -> bytes:
    """The end as a JSON object."""
    message = {"type": RUN_END, "status": end.status.value}
    if end.error is not None:
        message["error"] = end.error
    return encode_value(message)


def decode_end(message: Any) -> End | None:
    """The end that a JSON object stands for, or None."""
    if _type_of(message) != RUN_END:
        return None
    error = message.get("error")
    try:
        return End(Status(message.get("status")), error if isinstance(error, str) else None)
    except ValueError:
        return None


def _is_own(message: bytes) -> bool:
    """Whether a message says what happened to the run, and is not output."""
    (decoded,) = decode_page(b"[%b]" % message)
    return _type_of(decoded) in (RUN_END, RUN_RESTART)


def _type_of(message: Any) -> Any:
    return message.get("type") if isinstance(message, dict) else None


def _text_record(message: bytes) -> bytes:
    return b"\x1e%b\n" % message


class _JsonParser(Parser):
    """Reads a run that has one of some formats.

    Output may look like an end of another format: only the last message is one.
    """

    def __init__(self, *forms: JsonFormat) -> None:
        self._formats = forms
        self._held: list[Any] = []
        """The last message, if it may be the end."""

    @property
    def between_records(self) -> bool:
        return not self._held

    def feed(self, data: bytes) -> list[Any]:
        items: list[Any] = []
        for message in decode_page(data) if data else ():
            items += self._held
            self.end = next(filter(None, (form.read_end(message) for form in self._formats)), None)
            self._held = [message] if self.end else []
            if self.end is None and _type_of(message) != RUN_RESTART:
                items.append(message)
        return items


class _TextParser(Parser):
    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._record = ""
        """A record that is not complete yet, from its U+001E on."""

    @property
    def between_records(self) -> bool:
        return not self._record and not self._decoder.getstate()[0]

    def feed(self, data: bytes) -> list[Any]:
        text = self._record + self._decoder.decode(data)
        self._record = ""
        found: list[str] = []
        while text:
            before, separator, rest = text.partition(SEPARATOR)
            if before:
                self.end = None
                found.append(before)
            record, line_feed, text = rest.partition("\n")
            if line_feed:
                self._take(record)
            elif separator and len(rest) <= MAX_RECORD:
                self._record = separator + rest
            elif separator:
                found.append(separator + rest)
        joined = "".join(found)
        return [joined] if joined else []

    def _take(self, record: str) -> None:
        try:
            self.end = decode_end(json.loads(record))
        except (ValueError, RecursionError):
            self.end = None
