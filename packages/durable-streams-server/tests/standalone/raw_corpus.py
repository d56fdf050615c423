"""Raw requests, and what a strict server says to them.

Each case is sent as it stands over a connection of its own, to a server that has a text stream at
``/v1/stream/s`` holding ``hello``. ``statuses`` are those of its answers, in order; ``closes``
says that the connection must not live on. ``shared`` marks what every front end answers alike.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Case:
    name: str
    raw: bytes
    statuses: tuple[int, ...]
    closes: bool = False
    shared: bool = False


def ok(name: str, raw: bytes, *statuses: int, closes: bool = False) -> Case:
    return Case(name, raw, statuses, closes=closes, shared=True)


def odd(name: str, raw: bytes, *statuses: int, closes: bool = False) -> Case:
    return Case(name, raw, statuses, closes=closes)


def bad(name: str, raw: bytes, status: int = 400) -> Case:
    return Case(name, raw, (status,), closes=True)


H = b"Host: x\r\n"
GET = b"GET /v1/stream/s HTTP/1.1\r\n" + H
POST = b"POST /v1/stream/s HTTP/1.1\r\n" + H + b"Content-Type: text/plain\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
H2C = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAAB\r\n"
WEBSOCKET = b"Connection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
END = b"\r\n"
LAST = b"0\r\n\r\n"

CASES = [
    # What anybody sends.
    ok("read", GET + END, 200),
    ok("read from an offset", GET.replace(b"/s ", b"/s?offset=-1 ") + END, 200),
    ok("append", POST + b"Content-Length: 2\r\n\r\nhi", 204),
    ok("append in chunks", CHUNKED + b"2\r\nhi\r\n" + LAST, 204),
    ok("chunks with leading zeros", CHUNKED + b"0002\r\nhi\r\n" + LAST, 204),
    ok("chunk sizes in either case", CHUNKED + b"a\r\n0123456789\r\nA\r\n0123456789\r\n" + LAST, 204),
    ok("chunk extensions mean nothing", CHUNKED + b'2;a="b"\r\nhi\r\n' + LAST, 204),
    ok("trailers mean nothing", CHUNKED + b"2\r\nhi\r\n0\r\nX-Y: z\r\n\r\n", 204),
    ok("no stream", GET.replace(b"/s ", b"/none ") + END, 404),
    ok("create", POST.replace(b"POST /v1/stream/s", b"PUT /v1/stream/new") + b"Content-Length: 0\r\n\r\n", 201),
    ok("create twice", POST.replace(b"POST", b"PUT") + b"Content-Length: 0\r\n\r\n", 200),
    ok("delete", GET.replace(b"GET", b"DELETE") + END, 204),
    ok("head", GET.replace(b"GET", b"HEAD") + b"Connection: close\r\n\r\n", 200, closes=True),
    ok("preflight", GET.replace(b"GET", b"OPTIONS") + b"Origin: http://o\r\n\r\n", 204),
    ok("an unknown method of HTTP", GET.replace(b"GET", b"PATCH") + END, 405),
    ok("outside of the root", GET.replace(b"/v1/stream/s", b"/other") + END, 404),
    ok("an empty append", POST + b"Content-Length: 0\r\n\r\n", 400),
    ok("no content type", POST.replace(b"Content-Type: text/plain\r\n", b"") + b"Content-Length: 1\r\n\r\nx", 400),
    ok("another content type", POST.replace(b"plain", b"html") + b"Content-Length: 1\r\n\r\nx", 409),
    ok("a bad offset", GET.replace(b"/s ", b"/s?offset=1 ") + END, 400),
    ok("not modified", GET + b"If-None-Match: *\r\n\r\n", 304),
    ok("header names in any case", GET.replace(b"Host", b"hOST") + END, 200),
    ok("no space after the colon", GET.replace(b"Host: x", b"Host:x") + END, 200),
    ok("bytes beyond ASCII in a header", GET + b"X-Name: Jos\xc3\xa9\r\n\r\n", 200),
    ok("an encoded path", GET.replace(b"/s ", b"/%73 ") + END, 200),
    ok("an encoded slash", GET.replace(b"/s ", b"/a%2Fs ") + END, 400),
    ok("dots in a path", GET.replace(b"/s ", b"/../s ") + END, 400),
    ok("an absolute target", GET.replace(b"/v1", b"http://x/v1") + END, 200),
    ok("a header that stands alone, twice", GET + b"Stream-Seq: 1\r\nStream-Seq: 2\r\n\r\n", 400),
    ok("a compressed body", POST + b"Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\nhi", 415),
    # Several in one go.
    odd("two reads", (GET + END) * 2, 200, 200),
    odd("two appends", (POST + b"Content-Length: 2\r\n\r\nhi") * 2, 204, 204),
    odd("chunks, then a read", CHUNKED + b"2\r\nhi\r\n" + LAST + GET + END, 204, 200),
    odd("an empty line before", b"\r\n" + GET + END, 200),
    odd("an empty line between", GET + END + b"\r\n" + GET + END, 200, 200),
    odd("close means close", GET + b"Connection: close\r\n\r\n" + GET + END, 200, closes=True),
    odd("close among others", GET + b"Connection: foo, close\r\n\r\n" + GET + END, 200, closes=True),
    odd("a short body nobody wants", GET + b"Content-Length: 2\r\n\r\nhi" + GET + END, 200, 200),
    odd("a short body of a refusal", POST.replace(b"POST", b"PATCH") + b"Content-Length: 2\r\n\r\nhi" + GET + END, 405, 200),
    odd("a length of zero", GET + b"Content-Length: 0\r\n\r\n" + GET + END, 200, 200),
    odd("HTTP/1.0", b"GET /v1/stream/s HTTP/1.0\r\n\r\n" + GET + END, 200, closes=True),
    odd("HTTP/1.0 that stays", b"GET /v1/stream/s HTTP/1.0\r\nConnection: keep-alive\r\n\r\n" + GET + END, 200, 200),
    odd("a wish for 100", POST + b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\nhi", 204),
    odd("another wish", POST + b"Expect: 200-ok\r\nContent-Length: 2\r\n\r\nhi" + GET + END, 417, 200),
    odd("a header that stands alone, twice with one value", GET + b"Stream-Seq: 1\r\nStream-Seq: 1\r\n\r\n", 200),
    # An offered upgrade is ignored (RFC 9110 §7.8).
    odd("an offer of h2c", GET + H2C + END + GET + END, 200, 200),
    odd("an offer of h2c with a body", POST + H2C + b"Content-Length: 2\r\n\r\nhi" + GET + END, 204, 200),
    odd("an offer of h2c with chunks", POST + H2C + b"Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n" + LAST + GET + END, 204, 200),
    odd("an offer of WebSocket", GET + WEBSOCKET + END + GET + END, 200, 200),
    odd("WebSocket headers of a proxy, with a body", POST + WEBSOCKET + b"Content-Length: 2\r\n\r\nhi" + GET + END, 204, 200),
    odd("an offer of TLS by OPTIONS", GET.replace(b"GET", b"OPTIONS") + b"Connection: Upgrade\r\nUpgrade: TLS/1.2\r\n\r\n" + GET + END, 204, 200),
    odd("an offer and a wish to close", GET + b"Connection: close, Upgrade\r\nUpgrade: h2c\r\n\r\n", 200, closes=True),
    odd("an upgrade without its connection option", GET + b"Upgrade: h2c\r\n\r\n", 200),
    odd("a connection option without an upgrade", GET + b"Connection: Upgrade\r\n\r\n", 200),
    odd("an offer of HTTP/1.0", b"GET /v1/stream/s HTTP/1.0\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n", 200, closes=True),
    # Trailers that look like headers.
    odd("a trailer does not close a stream", CHUNKED + b"2\r\nhi\r\n0\r\nStream-Closed: true\r\n\r\n" + POST + b"Content-Length: 1\r\n\r\nx", 204, 204),
    bad("a length in a trailer", CHUNKED + b"2\r\nhi\r\n0\r\nContent-Length: 99\r\n\r\n"),
    # What two servers may read differently: who sends it means no good.
    bad("length and chunks", POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n" + LAST + b"GET "),
    bad("chunks and length", POST + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n" + LAST + b"GET "),
    bad("two lengths", POST + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\nhi!"),
    bad("two equal lengths", POST + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\nhi"),
    bad("a list of lengths", POST + b"Content-Length: 2, 2\r\n\r\nhi"),
    bad("a signed length", POST + b"Content-Length: +2\r\n\r\nhi"),
    bad("a negative length", POST + b"Content-Length: -2\r\n\r\nhi"),
    bad("a hexadecimal length", POST + b"Content-Length: 0x2\r\n\r\nhi"),
    bad("a length with an underscore", POST + b"Content-Length: 1_0\r\n\r\n0123456789"),
    bad("an empty length", POST + b"Content-Length:\r\n\r\n"),
    bad("a length beyond all numbers", POST + b"Content-Length: 99999999999999999999999\r\n\r\n"),
    bad("another coding", POST + b"Transfer-Encoding: gzip\r\n\r\n" + LAST, 501),
    bad("another coding before chunks", POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n" + LAST, 501),
    bad("a tab behind chunks", POST + b"Transfer-Encoding: chunked\t\r\n\r\n" + LAST),
    bad("a tab before chunks", POST + b"Transfer-Encoding:\tchunked\r\n\r\n" + LAST),
    bad("chunks twice", POST + b"Transfer-Encoding: chunked, chunked\r\n\r\n" + LAST),
    bad("chunks before identity", POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n" + LAST),
    bad("something like chunks", POST + b"Transfer-Encoding: xchunked\r\n\r\n" + LAST, 501),
    bad("chunks behind a control character", POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n" + LAST),
    bad("no coding at all", POST + b"Transfer-Encoding:\r\nContent-Length: 2\r\n\r\nhi"),
    bad("chunks in HTTP/1.0", CHUNKED.replace(b"HTTP/1.1", b"HTTP/1.0") + b"2\r\nhi\r\n" + LAST),
    bad("a bare CR in a header", GET + b"X: a\rb\r\n\r\n"),
    bad("a bare LF", GET.replace(b"\r\n", b"\n") + b"\n"),
    bad("one line end bare", GET + b"X: y\nContent-Length: 2\r\n\r\n"),
    bad("a folded header", GET + b"X: a\r\n b\r\n\r\n"),
    bad("a space before the colon", GET + b"X : a\r\n\r\n"),
    bad("a space before the first header", b"GET /v1/stream/s HTTP/1.1\r\n Host: x\r\n\r\n"),
    bad("no name", GET + b": a\r\n\r\n"),
    bad("a NUL in a header", GET + b"X: a\x00b\r\n\r\n"),
    bad("a NUL in a name", GET + b"X\x00: a\r\n\r\n"),
    bad("no colon", GET + b"nonsense\r\n\r\n"),
    bad("no Host", b"GET /v1/stream/s HTTP/1.1\r\n\r\n"),
    bad("a signed chunk size", CHUNKED + b"+2\r\nhi\r\n" + LAST),
    bad("a prefixed chunk size", CHUNKED + b"0x2\r\nhi\r\n" + LAST),
    bad("no chunk size", CHUNKED + b"\r\nhi\r\n" + LAST),
    bad("a space behind a chunk size", CHUNKED + b"2 \r\nhi\r\n" + LAST),
    bad("a chunk size beyond all numbers", CHUNKED + b"ffffffffffffffffff\r\nhi\r\n" + LAST),
    bad("a bare LF behind a chunk size", CHUNKED + b"2\nhi\r\n" + LAST),
    bad("a longer chunk than said", CHUNKED + b"2\r\nhi!\r\n" + LAST),
    bad("a bare LF in an extension", CHUNKED + b"2;x\nhi\r\n" + LAST),
    bad("HTTP/0.9", b"GET /v1/stream/s\r\n\r\n", 505),
    bad("HTTP/2.0", b"GET /v1/stream/s HTTP/2.0\r\nHost: x\r\n\r\n", 505),
    bad("HTTP/1.2", b"GET /v1/stream/s HTTP/1.2\r\nHost: x\r\n\r\n"),
    bad("the preface of HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    bad("TLS where none is", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
    bad("a tunnel", b"CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n", 405),
    bad("a method in lower case", GET.replace(b"GET", b"get") + END),
    bad("a method of nobody", GET.replace(b"GET", b"FETCH") + END),
    bad("bytes beyond ASCII in a path", GET.replace(b"/s ", b"/\xe9 ") + END),
    bad("a tab for a space", GET.replace(b"GET ", b"GET\t") + END),
    odd("a fragment", GET.replace(b"/s ", b"/s#f ") + END, 400),
    odd("two Hosts", GET + H + END, 400, closes=True),
    odd("another scheme", GET.replace(b"/v1", b"ftp://x/v1") + END, 400),
]  # fmt: skip
