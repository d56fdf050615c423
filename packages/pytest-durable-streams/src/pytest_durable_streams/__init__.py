"""A test kit for programs that use Durable Streams.

The fixtures are in :mod:`pytest_durable_streams.plugin`, which pytest loads by itself. This module
has the classes of the fixtures, and functions to use without them:

    with client_for(Engine("memory:")) as client:
        client.stream("a").create()
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_durable_streams.clock import StreamsClock
    from pytest_durable_streams.faults import Faults, Rule, SeenRequest
    from pytest_durable_streams.in_process import async_client_for, client_for
    from pytest_durable_streams.server import StreamsServer, serve

__version__ = version("pytest-durable-streams")

__all__ = [
    "Faults",
    "Rule",
    "SeenRequest",
    "StreamsClock",
    "StreamsServer",
    "__version__",
    "async_client_for",
    "client_for",
    "serve",
]

# pytest imports the package in every run, also where no test uses it. So the server and the client
# are imported when something of them is asked for.
_MODULES = {
    "Faults": "faults",
    "Rule": "faults",
    "SeenRequest": "faults",
    "StreamsClock": "clock",
    "StreamsServer": "server",
    "async_client_for": "in_process",
    "client_for": "in_process",
    "serve": "server",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
