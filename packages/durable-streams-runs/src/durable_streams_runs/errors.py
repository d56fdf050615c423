"""The errors of runs.

    DurableStreamsError
    └── RunError
        ├── RunNotFound      there is no such run
        ├── NotARun          another stream is at that path
        └── RunsUnavailable  not started, shut down, or too many runs

A source raises :class:`RunFailed` to end its run as failed with a sentence for users.
"""

from durable_streams_core.errors import DurableStreamsError

__all__ = ["NotARun", "RunError", "RunFailed", "RunNotFound", "RunsUnavailable"]


class RunError(DurableStreamsError):
    """The base of what the methods of runs raise, beside errors of the streams themselves."""

    status = 500
    code = "run-error"


class RunNotFound(RunError):
    """No run has that id: it was never started, or its stream was deleted."""

    status = 404
    code = "run-not-found"


class NotARun(RunError):
    """A stream that is not a run is at that path."""

    status = 409
    code = "not-a-run"


class RunsUnavailable(RunError):
    """Nothing can be started now: not started yet, shut down, or too many runs."""

    status = 503
    code = "runs-unavailable"


class RunFailed(Exception):
    """Raised by a source: the run ends as failed, and its readers are shown the message."""
