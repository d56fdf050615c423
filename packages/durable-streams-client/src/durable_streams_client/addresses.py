"""URLs of streams and their queries.

Parameters keep their repetitions and are ordered by name, so that caches see one spelling of one
request (§10.1). A query that the user put into a URL stays.
"""

from collections.abc import Iterable
from urllib.parse import SplitResult, quote, unquote, urlencode, urlsplit

from durable_streams_client.errors import InvalidArgument

_SAFE = "/%:@!$&'()*+,;=~-._?[]"


def stream_url(base: str, name: str) -> str:
    """The absolute URL of a stream: ``name`` itself if it is one, or below ``base``.

    Characters that a URL cannot hold are percent-encoded. Raises ``InvalidArgument``, also for a
    URL of another server than the base's: what a client sends with every request, credentials
    among it, is for that server only.
    """
    if not name:
        raise InvalidArgument("a stream needs a name or a URL")
    if name.startswith(("http://", "https://")):
        url = name
    elif not base:
        raise InvalidArgument(
            f"{name!r} is no http:// or https:// URL", advice="Give the client a base URL."
        )
    else:
        url = f"{base.rstrip('/')}/{name.lstrip('/')}"
    url = quote(url, safe=_SAFE)
    try:
        parts = urlsplit(url)
        bad = not parts.hostname or (parts.port is not None and parts.port < 1)
    except ValueError:
        bad = True
    if bad:
        raise InvalidArgument(f"{url!r} is no URL of a stream")
    if base and _origin(urlsplit(base)) != _origin(parts):
        raise InvalidArgument(
            f"{name!r} is on another server than the client's base URL",
            advice="Use a client of its own for it, without a base URL or with that server's.",
        )
    if not {".", ".."}.isdisjoint(unquote(parts.path).split("/")):
        # A transport resolves them: a name that someone else chose would lead out of the base.
        raise InvalidArgument(f"{name!r} has a '.' or '..' segment, which no stream's path has")
    return url


def _origin(parts: SplitResult) -> tuple[str, str | None, int]:
    return parts.scheme, parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)


def path_of(url: str) -> str:
    """The path of a stream's URL, as ``Stream-Forked-From`` wants it (§4.2)."""
    return urlsplit(url).path


def with_params(url: str, params: Iterable[tuple[str, str]]) -> str:
    """The URL with ``params`` in its query, ordered by name."""
    query = urlencode(sorted(params, key=lambda pair: pair[0]))
    if not query:
        return url
    return f"{url}{'&' if '?' in url else '?'}{query}"
