"""Request targets: their path and query, and the stream root that a path lies below.

Paths are compared percent-decoded, segment by segment, because ``/%73treams/x`` and ``/streams/x``
are the same path (RFC 3986 §6.2.2.2). A root is kept in one encoded form, which is the form that
clients are told; most requests spell it in the same way and cost no more than a string comparison.
"""

from urllib.parse import quote, unquote, unquote_to_bytes

from durable_streams_core.errors import InvalidRequest

_SAFE = "/~!$&'()*+,;=:@"
"""Characters that stand for themselves in a path (RFC 3986 §3.3)."""


def encode_path(path: str) -> str:
    """A decoded path as it is written in a URL."""
    return quote(path, safe=_SAFE)


def parse_root(root: str, *, health: bool = False) -> str:
    """A stream root as URLs have it, with both slashes: ``my streams`` is ``/my%20streams/``.

    ``root`` may be percent-encoded or not. ``health`` says that pages beside it tell of the
    server's health. Raises :class:`ValueError` for a root that clients cannot request, because they
    remove empty and dot segments, and for one that has nothing beside it where that is needed.
    """
    path = unquote(root).strip("/")
    if not path:
        if health:
            raise ValueError(
                "Below the root / every path is that of a stream, so /health and /ready cannot be "
                "served: give a root such as /v1/stream."
            )
        return "/"
    if any(segment in ("", ".", "..") for segment in path.split("/")):
        raise ValueError(f"The root must not have empty, '.' or '..' segments, got {root!r}.")
    return f"/{encode_path(path)}/"


def split_target(target: str) -> tuple[str, str]:
    """Path and query of a raw request target, as it came."""
    if not target.startswith("/"):
        # The absolute form, which a proxy sends (RFC 9112 §3.2.2).
        scheme, separator, rest = target.partition("://")
        if not separator or scheme.lower() not in ("http", "https"):
            raise not_a_path()
        slash = rest.find("/")
        target = rest[slash:] if slash >= 0 else "/"
    if "#" in target:
        raise InvalidRequest("A request target has no fragment.", code="invalid-target")
    path, _, query = target.partition("?")
    return path, query


def path_below(path: str, root: str) -> str | None:
    """What follows the root in a raw path, still encoded; None where the path is not below it."""
    if path.startswith(root):
        return path[len(root) :]
    if "%" not in path:
        return None
    depth = root.count("/") - 1
    _, *segments = path.split("/", depth + 1)
    if len(segments) != depth + 1:
        return None
    below = segments.pop()
    own_segments = root.split("/")[1:-1]
    for segment, own in zip(segments, own_segments, strict=True):
        if not segment.isascii() or unquote_to_bytes(segment) != unquote_to_bytes(own):
            return None
    return below


def not_a_path() -> InvalidRequest:
    """400: the target is neither a path nor a URL."""
    return InvalidRequest("The request target is not a path.", code="invalid-target")
