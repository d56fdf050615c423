"""``file:`` URLs: ``file:PATH?sync=commit&corruption=refuse&checkpoint-mib=256``."""

import sys
from collections.abc import Mapping
from typing import Final, cast
from urllib.parse import parse_qsl, unquote

from durable_streams_core.errors import StoreError
from durable_streams_server.stores.file.store import Corruption, FileStore, Sync

_CHOICES: Final[Mapping[str, tuple[str, ...]]] = {
    "sync": ("commit", "off"),
    "corruption": ("refuse", "set-aside"),
}

_CHECKPOINT: Final = "checkpoint-mib"


def open_store(url: str) -> FileStore:
    """The store for a ``file:`` URL, not yet opened. Raises :class:`StoreError` saying what is
    wrong with it.
    """
    if sys.platform == "win32":
        raise StoreError(
            "The file store needs Linux, macOS or another POSIX system; on Windows use memory: or "
            "redis://HOST, or run the server in WSL."
        )
    path, _, query = url.partition(":")[2].partition("?")
    if path.startswith("//"):
        host, slash, path = path[2:].partition("/")
        if host not in ("", "localhost"):
            raise StoreError(
                f"{url!r} names the host {host!r}, and a file store is on this machine: write "
                f"file:{host}{slash}{path} for a path, or file:/{path} for an absolute one."
            )
        path = slash + path
    path = unquote(path)
    if not path or "\0" in path:
        raise StoreError(f"{url!r} names no directory. Use file:PATH, for example file:./data.")
    options: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name in options:
            raise StoreError(f"{url!r} says {name} twice.")
        _check(name, value)
        options[name] = value
    return FileStore(
        path,
        sync=cast(Sync, options.get("sync", "commit")),
        corruption=cast(Corruption, options.get("corruption", "refuse")),
        checkpoint_bytes=int(options.get(_CHECKPOINT, "256")) * 1024 * 1024,
    )


def _check(name: str, value: str) -> None:
    choices = _CHOICES.get(name)
    if name == _CHECKPOINT:
        if not value.isascii() or not value.isdecimal() or not 1 <= int(value[:9]) <= 1_000_000:
            raise StoreError(f"{name} is a number of MiB from 1 to 1000000, not {value!r}.")
    elif choices is None:
        raise StoreError(
            f"A file store has no option {name!r}; it has {', '.join([*_CHOICES, _CHECKPOINT])}."
        )
    elif value not in choices:
        raise StoreError(f"{name} is {' or '.join(choices)}, not {value!r}.")
