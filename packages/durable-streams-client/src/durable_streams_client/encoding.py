"""Encoding of appended data as the body of a request (§9).

On a JSON stream every value is one message, whatever it is: a list is a message, not several, and
a str is a JSON string. ``bytes`` are one message that is JSON text already. On other streams
``bytes`` go as they are and ``str`` as UTF-8.
"""

from collections.abc import Callable, Iterable
from typing import Any, Final

import msgspec

from durable_streams_client.errors import InvalidArgument
from durable_streams_core.content import Kind, media_type
from durable_streams_core.errors import InvalidRequest
from durable_streams_core.json_messages import split_json
from durable_streams_core.values import encode_value

_VALIDATE: Final = msgspec.json.Decoder(msgspec.Raw)


def kind_of(content_type: str) -> Kind:
    """How a stream of that content type is cut; raises InvalidArgument for a malformed one."""
    try:
        return media_type(content_type).kind
    except InvalidRequest as error:
        raise InvalidArgument(error.message) from None


def response_kind(content_type: str) -> Kind:
    """The same for a content type that a server sent: what cannot be read is bytes."""
    try:
        return media_type(content_type).kind
    except InvalidRequest:
        return Kind.BINARY


def encode_message(value: Any) -> bytes:
    """One JSON message; raises InvalidArgument for what JSON cannot hold."""
    if isinstance(value, (bytes, bytearray, memoryview)):
        return _checked(bytes(value))
    try:
        return encode_value(value)
    except ValueError as error:
        raise InvalidArgument(f"the value cannot be written as JSON: {error}") from error


def _checked(text: bytes) -> bytes:
    try:
        text.decode()
        _VALIDATE.decode(text)
    except (ValueError, RecursionError):
        try:  # escapes of lone surrogates are JSON, which msgspec does not take
            split_json(text)
        except InvalidRequest as error:
            raise InvalidArgument(f"the bytes are not JSON text: {error.message}") from None
    return text


def encode_bytes(data: Any) -> bytes:
    """One piece of a stream of bytes or text."""
    if isinstance(data, bytes):
        return data
    if isinstance(data, str):
        try:
            return data.encode()
        except UnicodeEncodeError as error:
            raise InvalidArgument(f"the text is not Unicode: {error.reason}") from None
    if isinstance(data, (bytearray, memoryview)):
        return bytes(data)
    raise InvalidArgument(
        f"a stream of bytes or text takes bytes or str, not {type(data).__name__}",
        advice="Create the stream with content_type='application/json' to append values.",
    )


def encoder_for(kind: Kind) -> Callable[[Any], bytes]:
    return encode_message if kind is Kind.JSON else encode_bytes


def join(kind: Kind, parts: list[bytes]) -> bytes:
    """One request body out of encoded pieces. JSON messages become an array, whose one level
    the server takes off again (§9.1.2).
    """
    if kind is Kind.JSON:
        return b"[%b]" % b",".join(parts)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def encode_all(kind: Kind, values: Iterable[Any]) -> list[bytes]:
    encode = encoder_for(kind)
    return [encode(value) for value in values]
