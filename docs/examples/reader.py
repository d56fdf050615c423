"""Follows a stream to its end with nothing but the standard library.

    python reader.py URL [OFFSET-FILE]

Prints the data as it comes. The offset is kept only after the data before it has been handled, so
that a reader that is killed and started again neither loses nor skips anything.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode
from urllib.request import urlopen


def follow(url: str, offset: str = "-1") -> Iterator[tuple[bytes, str]]:
    """Yields data and the offset after it; ends when the stream is closed."""
    query = {"offset": offset}
    while True:
        with urlopen(f"{url}?{urlencode(query)}") as answer:
            data = answer.read()
            headers = answer.headers
        query["offset"] = headers["Stream-Next-Offset"]
        if data:
            yield data, query["offset"]
        if headers["Stream-Closed"] == "true":
            return
        if headers["Stream-Up-To-Date"] == "true":
            query["live"] = "long-poll"  # from here on, wait for more
        if headers["Stream-Cursor"]:
            query["cursor"] = headers["Stream-Cursor"]


def main(url: str, kept: Path | None = None) -> None:
    offset = kept.read_text() if kept is not None and kept.exists() else "-1"
    for data, after in follow(url, offset):
        sys.stdout.buffer.write(data)
        sys.stdout.flush()
        if kept is not None:
            kept.write_text(after)


if __name__ == "__main__":
    main(sys.argv[1], *map(Path, sys.argv[2:]))
