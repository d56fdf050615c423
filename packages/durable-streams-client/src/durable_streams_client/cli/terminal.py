"""The output of the command: progress, messages as JSON, and one line on what was done."""

import os
import re
import shutil
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import IO, Any, Final

import click
import msgspec

from durable_streams_client._sync.reader import Reader
from durable_streams_client.batches import Batch

UPDATE_BYTES: Final = 1 << 16
"""A progress bar moves in steps of this size, because each step costs as much as a line."""

_TOKEN: Final = re.compile(
    r'(?P<key>"(?:[^"\\]|\\.)*")(?=\s*:)|(?P<string>"(?:[^"\\]|\\.)*")'
    r"|(?P<number>-?\d[\d.eE+-]*)|(?P<word>true|false|null)"
)
_COLOURS: Final = {"key": "blue", "string": "green", "number": "cyan", "word": "magenta"}


def say(what: str, detail: str) -> None:
    """Print what was done, for a person. Scripts use the exit code and standard output."""
    click.echo(f"{what} {detail}", err=True)


@contextmanager
def progress(what: str, size: int | None) -> Iterator[Callable[[int], None]]:
    """A function to call with counts of bytes; on a terminal it moves a bar, else it does nothing.

    Without a ``size`` the bar shows how much, and how fast.
    """
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from tqdm import tqdm  # a pipe does not need it, and it takes a while

    # A terminal that does not know its size says 0, and tqdm would show nothing.
    columns, rows = shutil.get_terminal_size()
    options: dict[str, Any] = {"ncols": columns - 1, "nrows": rows, "file": sys.stderr}
    with tqdm(total=size, desc=what, unit="B", unit_scale=True, **options) as bar:
        held = 0

        def advance(count: int) -> None:
            nonlocal held
            held += count
            if held >= UPDATE_BYTES:
                bar.update(held)
                held = 0

        yield advance
        bar.update(held)


def size_of(source: IO[bytes]) -> int | None:
    """How many bytes a file holds, None for a pipe."""
    with suppress(OSError):
        return os.fstat(source.fileno()).st_size or None
    return None


class Printer:
    """Prints the messages of a stream to standard output.

    ``output`` is ``json`` for indented JSON, ``jsonl`` for one message on each line, and ``raw``
    for what the server sent. By default JSON is indented on a terminal. Other streams are printed
    as they are.
    """

    def __init__(self, output: str | None) -> None:
        is_terminal = sys.stdout.isatty()
        self.output = output or ("json" if is_terminal else "jsonl")
        self._out = sys.stdout.buffer
        self._in_colour = is_terminal and "NO_COLOR" not in os.environ
        self._is_open_line = False

    def show(self, reader: Reader[Any], advance: Callable[[int], None]) -> None:
        """Print the batches of a reader as they come."""
        for batch in reader:
            self._print(batch)
            advance(len(batch.data))
        if self._is_open_line and sys.stdout.isatty():
            click.echo(err=True)  # so that the prompt of the shell begins a line

    def show_last(self, reader: Reader[Any], count: int) -> None:
        """Print the last messages or lines up to the end of a reader."""
        last: deque[bytes] = deque(maxlen=count)
        is_json = False
        open_line: list[bytes] = []
        for batch in reader:
            is_json = batch.is_json
            if is_json:
                last.extend(batch.messages())
                continue
            first, *lines = batch.data.split(b"\n")
            open_line.append(first)
            if lines:
                last.append(b"".join(open_line) + b"\n")
                *lines, rest = lines
                last.extend(line + b"\n" for line in lines)
                open_line = [rest]
        rest = b"".join(open_line)
        if rest:
            last.append(rest)
        self._write(self._lines(last) if is_json else last)

    def _print(self, batch: Batch[Any]) -> None:
        if not batch.is_json:
            self._write([batch.data])
        elif self.output == "raw":
            self._write([batch.data, b"\n"] if batch.data else [])
        else:
            self._write(self._lines(batch.messages()))

    def _lines(self, messages: Iterable[bytes]) -> Iterator[bytes]:
        for message in messages:
            if self.output == "json":
                text = _indented(message)
                yield (_coloured(text) if self._in_colour else text) + b"\n"
            else:
                # JSON has line breaks between tokens only.
                yield message.replace(b"\r", b" ").replace(b"\n", b" ") + b"\n"

    def _write(self, pieces: Iterable[bytes]) -> None:
        data = b"".join(pieces)
        self._out.write(data)
        self._out.flush()
        if data:
            self._is_open_line = not data.endswith(b"\n")


def _indented(text: bytes) -> bytes:
    try:
        return msgspec.json.format(text, indent=2)
    except (ValueError, RecursionError):
        return text


def _coloured(text: bytes) -> bytes:
    def colour(token: re.Match[str]) -> str:
        return click.style(token[0], fg=_COLOURS[token.lastgroup or "word"])

    return _TOKEN.sub(colour, text.decode("utf-8", "surrogateescape")).encode(
        "utf-8", "surrogateescape"
    )
