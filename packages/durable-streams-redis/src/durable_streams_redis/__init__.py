"""A store for the Durable Streams Protocol on Redis or Valkey.

This release reserves the name: it holds no store yet.
"""

from importlib.metadata import version

__all__ = ["__version__"]

__version__ = version("durable-streams-redis")
