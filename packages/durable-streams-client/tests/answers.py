"""Strategies for anything that a server, or a proxy before it, can send: heads, bodies, events."""

import gzip

from hypothesis import strategies as st

STATUSES = [
    100,
    101,
    103,
    199,
    200,
    200,
    200,
    200,
    201,
    204,
    205,
    206,
    226,
    300,
    301,
    302,
    303,
    304,
    307,
    308,
    400,
    401,
    403,
    404,
    405,
    409,
    410,
    413,
    416,
    425,
    429,
    500,
    502,
    503,
    504,
    507,
    599,
    999,
]
NAMES = [
    "Content-Type",
    "Content-Encoding",
    "Stream-Next-Offset",
    "Stream-Up-To-Date",
    "Stream-Closed",
    "Stream-Cursor",
    "Stream-TTL",
    "Stream-Expires-At",
    "Stream-SSE-Data-Encoding",
    "Producer-Epoch",
    "Producer-Seq",
    "Producer-Expected-Seq",
    "Producer-Received-Seq",
    "ETag",
    "Location",
    "Retry-After",
    "Set-Cookie",
    "Date",
    "Connection",
    "Transfer-Encoding",
    "Content-Length",
    "WWW-Authenticate",
]
VALUES = [
    b"",
    b"true",
    b"false",
    b"0",
    b"1",
    b"-1",
    b"now",
    b"5",
    b"00000001",
    b"00000002",
    b"9" * 5000,
    b"9007199254740992",
    b"-9" * 10,
    b"1e3",
    b"\xff\xfe",
    "ü".encode(),
    b"a,b&c=d?e/f g",
    b"application/json",
    b"application/json; charset=utf-7",
    b"application/problem+json",
    b"text/event-stream",
    b"text/plain",
    b"text/html",
    b";;;",
    b"gzip",
    b"deflate, gzip",
    b"br",
    b"base64",
    b"chunked",
    b"close",
    b"Wed, 21 Oct 2015 07:28:00 GMT",
    b"Wed, 99 Foo 99999999999 99:99:99 +9999",
    b"Mon, 01 Jan 0001 00:00:00 -2359",
    b"http://[::1",
    b"http://user:word@127.0.0.1:1/elsewhere?a=b",
    b"//other/",
    b"/x" * 100,
    b"\xf0\x9f\x98\x80",
    b"%zz",
    b"a=b; expires=never; domain=\xff",
    b"x" * 70_000,
]
JSON_BODIES = [
    b"[]",
    b"[1,2]",
    b' [ {"a":1} , 2 ] ',
    b"[" * 100_000,
    b"[" + b"[" * 50_000 + b"]" * 50_000 + b"]",
    b'{"code":' + b'{"a":' * 50_000 + b"1" + b"}" * 50_001,
    b"1" * 5000,
    b"[1e400, -1e400]",
    rb'["\ud83d"]',
    b'["\xe9"]',
    b'{"detail":"\xe9","code":7}',
    b'{"detail":"a\\nb\\u0000","code":"no-such-stream","title":null}',
    b'{"error":{"code":"FENCED"}}',
    b'{"error":{"code":{"a":1},"message":[]}}',
    b'{"error":5}',
    b"null",
    b"NaN",
    b"{",
    b"",
    b"\xef\xbb\xbf[1]",
]
EVENTS = [
    b'event: control\ndata: {"streamNextOffset":"00000001","upToDate":true}\n\n',
    b'event: control\ndata: {"streamNextOffset":"00000002","streamCursor":"1"}\n\n',
    b'event: control\ndata: {"streamNextOffset":"00000002","streamClosed":true}\n\n',
    b'event: control\ndata: {"streamNextOffset":"-1"}\n\n',
    b'event: control\ndata: {"streamNextOffset":"a\\nb\\u0000"}\n\n',
    b'event: control\ndata: {"streamNextOffset":"' + b"1" * 5000 + b'"}\n\n',
    b'event: control\ndata: {"streamNextOffset":' + b"1" * 5000 + b"}\n\n",
    b'event: control\ndata: {"streamNextOffset":"5","new":' + b"[" * 50_000 + b"}\n\n",
    b'event: control\ndata: {"streamNextOffset":"\\ud83d"}\n\n',
    b'event: control\ndata: {"streamNextOffset":"5","streamCursor":"\xc3\xbc"}\n\n',
    b"event: control\ndata: null\n\n",
    b"event: control\ndata:\n\n",
    b"event: data\ndata: [1,2]\n\n",
    b"event: data\ndata: [\n\n",
    b"event: data\ndata: aGVsbG8=\n\n",
    b"event: data\ndata: \xff\n\n",
    b"event: data\ndata\n\n",
    b"event: error\ndata: no\n\n",
    b": comment\n\n",
    b"retry: " + b"9" * 5000 + b"\n\n",
    b"id: \xff\r\n\r\n",
    b"data: " + b"[" * 50_000 + b"\n\n",
    b"event: control\nda",
    b"\r\n\n\r\r\n",
]
JUNK = [
    b"",
    b"\r\n\r\n",
    b"HTTP/1.1\r\n\r\n",
    b"HTTP/1.1 abc OK\r\n\r\n",
    b"HTTP/9.9 200 OK\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
    b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"f" * 5000 + b"\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
    b"HTTP/1.1 200 OK\r\n no name\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n: no name\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nA: \x00\r\n\r\n",
    b"HTTP/1.1 200 \xff\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n" * 1000,
    b"\x16\x03\x01\x02\x00\x01\x00",
    b"x" * 200_000,
]

values = st.sampled_from(VALUES) | st.binary(max_size=40).map(
    lambda value: bytes(byte for byte in value if byte >= 32 and byte != 127).strip()
)
events = st.lists(st.sampled_from(EVENTS), max_size=6).map(b"".join)
bodies = st.one_of(st.sampled_from(JSON_BODIES), events, st.binary(max_size=60))


@st.composite
def _heads_and_bodies(draw: st.DrawFn) -> bytes:
    status = draw(st.sampled_from(STATUSES))
    headers = draw(st.lists(st.tuples(st.sampled_from(NAMES), values), max_size=6))
    for name, value in (
        ("Stream-Next-Offset", draw(st.sampled_from([None, b"00000001", b"00000002"]))),
        ("Stream-Up-To-Date", draw(st.sampled_from([None, b"true"]))),
    ):
        if value is not None:
            headers.append((name, value))
    body = draw(bodies)
    if draw(st.booleans()):
        headers.append(("Content-Type", draw(st.sampled_from(VALUES[17:24]))))
    if draw(st.integers(0, 9)) == 0:
        body = gzip.compress(body)[: draw(st.integers(0, 60))]
        headers.append(("Content-Encoding", b"gzip"))
    framing = draw(st.sampled_from(["length", "length", "length", "close", "chunks", "longer"]))
    if framing == "chunks":
        headers.append(("Transfer-Encoding", b"chunked"))
        body = (b"%x\r\n%b\r\n" % (len(body), body) if body else b"") + b"0\r\n\r\n"
    elif framing != "close":
        length = len(body) + (7 if framing == "longer" else 0)
        headers.append(("Content-Length", b"%d" % length))
    lines = b"".join(b"%b: %b\r\n" % (name.encode(), value) for name, value in headers)
    return b"HTTP/1.1 %d X\r\n%b\r\n%b" % (status, lines, body)


@st.composite
def _event_streams(draw: st.DrawFn) -> bytes:
    encoding = draw(st.sampled_from([b"", b"Stream-SSE-Data-Encoding: base64\r\n"]))
    return b"HTTP/1.1 200 X\r\nContent-Type: text/event-stream\r\n%b\r\n%b" % (
        encoding,
        draw(events),
    )


answers = st.one_of(_heads_and_bodies(), _event_streams(), st.sampled_from(JUNK))
"""The bytes of one answer."""
PAGE_AT_TAIL = (
    b"HTTP/1.1 200 X\r\nContent-Type: application/json\r\nContent-Length: 2\r\n"
    b"Stream-Next-Offset: 00000001\r\nStream-Up-To-Date: true\r\n\r\n[]"
)
"""With this before them, answers reach a reader that is live."""
