"""URLs of streams and their queries.

Parameters keep their repetitions and are ordered by name, so that caches see one spelling of one
request (§10.1). A query that the user put into a URL stays.
"""

from collections.abc import Iterable
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlencode, urlsplit

from durable_streams_client.errors import InvalidArgument
from durable_streams_client.fields import check_param

_SAFE = "/%:@!$&'()*+,;=~-._?[]"
"""What stays as it is in a URL."""
_SAFE_IN_NAME = "/:@!$&'()*+,;=~-._"
"""What stays as it is in a name, which is taken literally."""
_DOTS = frozenset({".", ".."})
SCHEMES = ("http://", "https://")


def base_url(base: str) -> str:
    """A client's base URL, checked; raises InvalidArgument."""
    if not base:
        return base
    _require_scheme(base)
    url = _quoted(base, _SAFE + "#")
    parts = _split(url, f"{base!r} is not the URL of a server")
    if parts.query or parts.fragment or url.endswith(("?", "#")):
        raise InvalidArgument(
            f"the base URL {base!r} has a query or a fragment",
            advice="Pass parameters of every request as `params`.",
        )
    return url


def stream_url(base: str, name: str) -> str:
    """The absolute URL of a stream: ``name`` itself if it is one, or below ``base``.

    A name is taken literally, so that ``?``, ``#`` and ``%`` are characters like others; in a URL
    they mean what they mean there. Raises ``InvalidArgument``, also for a URL of another server
    than the base's: what a client sends with every request, credentials among it, is for that
    server only.
    """
    if not name:
        raise InvalidArgument("a stream needs a name or a URL")
    if not name.startswith(SCHEMES):
        if not base:
            _require_scheme(name, advice="Give the client a base URL, or name a whole URL.")
        return url_below(base, name)
    if "#" in name:
        raise InvalidArgument(f"{name!r} has a fragment", advice="Write %23 for a # in a name.")
    url = _quoted(name, _SAFE)
    parts = _split(url, f"{url!r} is not the URL of a stream")
    if base and _origin(urlsplit(base)) != _origin(parts):
        raise InvalidArgument(
            f"{name!r} is on another server than the client's base URL",
            advice="Use a client of its own for it, without a base URL or with that server's.",
        )
    for param, value in parse_qsl(parts.query, keep_blank_values=True):
        check_param(param, value)
    if not _DOTS.isdisjoint(unquote(parts.path).split("/")):
        raise _dotted(name)
    return url


def url_below(base: str, name: str) -> str:
    """The URL of the stream ``name``, whatever it looks like, below ``base``."""
    if not _DOTS.isdisjoint(name.split("/")) or not _DOTS.isdisjoint(
        urlsplit(base).path.split("/")
    ):
        raise _dotted(name)
    return f"{base.rstrip('/')}/{_quoted(name.lstrip('/'), _SAFE_IN_NAME)}"


def _require_scheme(url: str, advice: str | None = None) -> None:
    if not url.startswith(SCHEMES):
        raise InvalidArgument(
            f"{url!r} does not begin with http:// or https://",
            advice=advice or f"Write http://{url.lstrip('/')} if that is meant.",
        )


def _quoted(text: str, safe: str) -> str:
    try:
        return quote(text, safe=safe)
    except UnicodeEncodeError:
        raise InvalidArgument(f"{text!r} is not Unicode text") from None


def _split(url: str, complaint: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        bad = not parts.hostname or (parts.port is not None and parts.port < 1)
    except ValueError:
        bad = True
    if bad:
        raise InvalidArgument(complaint)
    return parts


def _dotted(name: str) -> InvalidArgument:
    # A transport resolves them: a name that someone else chose would lead out of the base.
    return InvalidArgument(f"{name!r} has a '.' or '..' segment, which no stream's path has")


def header_path(path: str) -> str:
    """A path that a program named, as a header can hold it."""
    return _quoted(path, _SAFE)


def origin_of(url: str) -> tuple[str, str | None, int]:
    """Scheme, host and port of a URL."""
    return _origin(urlsplit(url))


def _origin(parts: SplitResult) -> tuple[str, str | None, int]:
    return parts.scheme, parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)


def path_of(url: str) -> str:
    """The path of a stream's URL, as ``Stream-Forked-From`` wants it (§4.2)."""
    return urlsplit(url).path


def with_params(url: str, params: Iterable[tuple[str, str]]) -> str:
    """The URL with ``params`` in its query, ordered by name."""
    try:
        query = urlencode(sorted(params, key=lambda pair: pair[0]))
    except UnicodeEncodeError:
        raise InvalidArgument("an offset or parameter is not Unicode text") from None
    if not query:
        return url
    return f"{url}{'&' if '?' in url else '?'}{query}"
