"""A client for servers of the Durable Streams Protocol.

This release reserves the name: it holds no client yet.
"""

from importlib.metadata import version

__all__ = ["__version__"]

__version__ = version("durable-streams-client")
