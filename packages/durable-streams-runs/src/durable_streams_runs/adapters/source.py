"""A library's stream as the source of a run."""

import inspect
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
)
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing
from typing import Any, Generic, TypeAlias, TypeVar

__all__ = ["LibraryStream", "ModelError", "Source"]

T = TypeVar("T")

LibraryStream: TypeAlias = (
    Awaitable[Any] | AbstractAsyncContextManager[Any, Any] | AsyncIterable[Any]
)
"""A stream of a library, a context manager for one, or a call for one that is not awaited yet."""


class ModelError(Exception):
    """The stream of a model told of an error, or ended before its last event."""


class Source(Generic[T]):
    """A library's stream as the source of a run. Each adapter makes one.

    The stream is opened when the run first reads it, so that a start that attaches to another run
    makes no request. It is closed when the run ends, however it ends, and so is its connection.

    Raises ``TypeError`` for a stream that is not asynchronous.
    """

    def __init__(
        self, stream: LibraryStream, read: Callable[[Any], AsyncGenerator[T, None]]
    ) -> None:
        if not (
            inspect.isawaitable(stream)
            or hasattr(stream, "__aenter__")
            or hasattr(stream, "__aiter__")
        ):
            raise TypeError(
                f"a stream of an asynchronous client is needed, not {type(stream).__name__}"
            )
        self._stream = stream
        self._is_open = False
        self._items = self._read(read)

    def __aiter__(self) -> AsyncIterator[T]:
        """The items of the run; they can be read once."""
        return self._items

    async def aclose(self) -> None:
        """Close the library's stream, whether it was opened or not."""
        await self._items.aclose()
        if not self._is_open:
            self._is_open = True
            await _discard(self._stream)

    async def _read(
        self, read: Callable[[Any], AsyncGenerator[T, None]]
    ) -> AsyncGenerator[T, None]:
        self._is_open = True
        async with AsyncExitStack() as stack:
            stream: Any = self._stream
            if inspect.isawaitable(stream):
                stream = await stream
            if hasattr(stream, "__aenter__"):
                stream = await stack.enter_async_context(stream)
            elif hasattr(stream, "aclose"):
                stack.push_async_callback(stream.aclose)
            items = await stack.enter_async_context(aclosing(read(stream)))
            async for item in items:
                yield item


async def _discard(stream: Any) -> None:
    """Close a stream that no run reads: its connection, or a call that Python would warn of."""
    close = getattr(stream, "aclose", None) or getattr(stream, "close", None)
    if close is not None:
        closing = close()
        if inspect.isawaitable(closing):
            await closing
        return
    # The context managers of the SDKs keep the coroutine of their request.
    for each in getattr(stream, "__dict__", {}).values():
        if inspect.iscoroutine(each):
            each.close()


def as_sent(event: Any, *, without: Iterable[str]) -> dict[str, Any]:
    """An event of an SDK as its API sent it, without the fields that the SDK's helpers add."""
    dumped: dict[str, Any] = event.model_dump(
        mode="json", by_alias=True, exclude_unset=True, exclude=set(without), warnings=False
    )
    return dumped


def as_json(value: Any) -> Any:
    """Models of pydantic, dataclasses and containers of them, as values that JSON can hold.

    Fields of models that are None are left out: clients in JavaScript do not take null for them.

    Raises ``ValueError`` for anything else. Every library that needs it brings pydantic.
    """
    from pydantic_core import to_jsonable_python

    return to_jsonable_python(value, by_alias=True, exclude_none=True, inf_nan_mode="null")
