"""Static files for browsers, under the reserved ``__ds/``: the module ``follow.js`` and a console.

They hold no data of any stream, so access to them is not checked: a page could not send credentials
when it loads a script. Whatever the console shows it reads from routes that are checked.
"""

from hashlib import sha256
from importlib.resources import files
from typing import Final

from durable_streams_core.reads import etag_matches
from durable_streams_server.http import headers, names
from durable_streams_server.http.errors import wrong_method
from durable_streams_server.http.messages import Header, RequestHead, Response

_SCRIPT: Final = b"text/javascript; charset=utf-8"
_STYLE: Final = b"text/css; charset=utf-8"
_PAGE: Final = b"text/html; charset=utf-8"

_MODULE: Final = {"follow.js": ("follow.js", _SCRIPT)}
_CONSOLE: Final = {
    "console": ("console.html", _PAGE),
    "console.js": ("console.js", _SCRIPT),
    "console.css": ("console.css", _STYLE),
}

_PAGE_POLICY: Final[Header] = (
    b"content-security-policy",
    (
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; "
        b"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
)
_REFERRER: Final[Header] = (b"referrer-policy", b"no-referrer")


class Asset:
    """One file, with the entity tag of its content."""

    __slots__ = ("body", "content_type", "tag")

    def __init__(self, name: str, content_type: bytes) -> None:
        self.body = (files("durable_streams_server") / "web" / name).read_bytes()
        self.content_type = content_type
        self.tag = f'"{sha256(self.body).hexdigest()[:16]}"'

    def respond(self, request: RequestHead, common: list[Header]) -> Response:
        """The response to GET or HEAD; raises :class:`ProtocolError` for other methods."""
        if request.method not in ("GET", "HEAD"):
            raise wrong_method("GET", "HEAD")
        fields = [
            *common,
            (names.CONTENT_TYPE, self.content_type),
            (names.ETAG, self.tag.encode()),
            headers.NO_CACHE,
        ]
        if self.content_type == _PAGE:
            fields += [_PAGE_POLICY, _REFERRER]
        if_none_match = request.headers.get(names.IF_NONE_MATCH)
        if if_none_match is not None and etag_matches(if_none_match.decode("latin-1"), self.tag):
            return Response(304, fields)
        return Response(200, fields, self.body)


def load_assets(*, console: bool) -> dict[str, Asset]:
    """The files to serve, by their path under ``__ds/``."""
    names = _MODULE | (_CONSOLE if console else {})
    return {path: Asset(name, kind) for path, (name, kind) in names.items()}
