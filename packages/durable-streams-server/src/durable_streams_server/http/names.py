"""Names of headers as the HTTP layer compares and sends them: bytes in lower case."""

from typing import Final

from durable_streams_core import protocol


def _lower(name: str) -> bytes:
    return name.lower().encode()


# The protocol's own (§5, §13.2)
STREAM_NEXT_OFFSET: Final = _lower(protocol.STREAM_NEXT_OFFSET)
STREAM_UP_TO_DATE: Final = _lower(protocol.STREAM_UP_TO_DATE)
STREAM_CLOSED: Final = _lower(protocol.STREAM_CLOSED)
STREAM_CURSOR: Final = _lower(protocol.STREAM_CURSOR)
STREAM_TTL: Final = _lower(protocol.STREAM_TTL)
STREAM_EXPIRES_AT: Final = _lower(protocol.STREAM_EXPIRES_AT)
STREAM_SEQ: Final = _lower(protocol.STREAM_SEQ)
STREAM_SSE_DATA_ENCODING: Final = _lower(protocol.STREAM_SSE_DATA_ENCODING)
STREAM_FORKED_FROM: Final = _lower(protocol.STREAM_FORKED_FROM)
STREAM_FORK_OFFSET: Final = _lower(protocol.STREAM_FORK_OFFSET)
STREAM_FORK_SUB_OFFSET: Final = _lower(protocol.STREAM_FORK_SUB_OFFSET)
PRODUCER_ID: Final = _lower(protocol.PRODUCER_ID)
PRODUCER_EPOCH: Final = _lower(protocol.PRODUCER_EPOCH)
PRODUCER_SEQ: Final = _lower(protocol.PRODUCER_SEQ)
PRODUCER_EXPECTED_SEQ: Final = _lower(protocol.PRODUCER_EXPECTED_SEQ)
PRODUCER_RECEIVED_SEQ: Final = _lower(protocol.PRODUCER_RECEIVED_SEQ)

# Those of HTTP
ACCEPT_ENCODING: Final = b"accept-encoding"
AUTHORIZATION: Final = b"authorization"
CACHE_CONTROL: Final = b"cache-control"
CONNECTION: Final = b"connection"
CONTENT_ENCODING: Final = b"content-encoding"
CONTENT_LENGTH: Final = b"content-length"
CONTENT_TYPE: Final = b"content-type"
ETAG: Final = b"etag"
EXPECT: Final = b"expect"
HOST: Final = b"host"
IF_MATCH: Final = b"if-match"
IF_NONE_MATCH: Final = b"if-none-match"
LAST_EVENT_ID: Final = b"last-event-id"
LOCATION: Final = b"location"
ORIGIN: Final = b"origin"
PROXY_CONNECTION: Final = b"proxy-connection"
TRANSFER_ENCODING: Final = b"transfer-encoding"
UPGRADE: Final = b"upgrade"
VARY: Final = b"vary"
