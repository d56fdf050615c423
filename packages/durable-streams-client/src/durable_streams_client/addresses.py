"""URLs of streams and their queries.

Parameters keep their repetitions and are ordered by name, so that caches see one spelling of one
request (§10.1). A query that the user put into a URL stays.
"""

from collections.abc import Iterable
from urllib.parse import quote, unquote, urlencode, urlsplit

from durable_streams_client.errors import InvalidArgument

_SAFE = "/%:@!$&'()*+,;=~-._?[]"


def stream_url(base: str, name: str) -> str:
    """The absolute URL of a stream: ``name`` itself if it is one, or below ``base``.

    Characters that a URL cannot hold are percent-encoded. Raises ``InvalidArgument``.
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
    if not {".", ".."}.isdisjoint(unquote(parts.path).split("/")):
        # A transport resolves them: a name that someone else chose would lead out of the base.
        raise InvalidArgument(f"{name!r} has a '.' or '..' segment, which no stream's path has")
    return url


def path_of(url: str) -> str:
    """The path of a stream's URL, as ``Stream-Forked-From`` wants it (§4.2)."""
    return urlsplit(url).path


def with_params(url: str, params: Iterable[tuple[str, str]]) -> str:
    """The URL with ``params`` in its query, ordered by name."""
    query = urlencode(sorted(params, key=lambda pair: pair[0]))
    if not query:
        return url
    return f"{url}{'&' if '?' in url else '?'}{query}"
