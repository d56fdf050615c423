"""A store for the Durable Streams Protocol on Redis or Valkey."""

from importlib.metadata import version

from durable_streams_redis.store import RedisStore, open_store

__all__ = ["RedisStore", "__version__", "open_store"]

__version__ = version("durable-streams-redis")
