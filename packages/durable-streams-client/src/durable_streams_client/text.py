"""UTF-8 text out of batches that a server may cut anywhere.

A batch that ends inside a character is held back and joined with the next, so that the offset of
what was handed out is always safe to store.
"""

from typing import Any

from durable_streams_client.batches import Batch
from durable_streams_client.errors import MalformedResponse
from durable_streams_core.content import incomplete_suffix


class TextJoiner:
    """Turns the data of batches into text, whole characters at a time."""

    def __init__(self) -> None:
        self._held = b""

    def feed(self, batch: Batch[Any]) -> str | None:
        """The text up to the end of ``batch``, or None if that is inside a character.

        Raises ``MalformedResponse`` for bytes that are no UTF-8.
        """
        data = self._held + batch.data if self._held else batch.data
        if incomplete_suffix(data) and not batch.closed:
            self._held = data
            return None
        self._held = b""
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            raise MalformedResponse(
                f"The stream is not UTF-8 text: {error.reason}.",
                url=batch.url,
                code="invalid-text",
                advice="Read it as bytes.",
            ) from None
