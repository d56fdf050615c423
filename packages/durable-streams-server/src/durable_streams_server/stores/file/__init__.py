"""The file store: one directory, one process, no other software."""

from durable_streams_server.stores.file.store import FileStore
from durable_streams_server.stores.file.url import open_store

__all__ = ["FileStore", "open_store"]
