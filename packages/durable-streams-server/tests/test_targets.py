"""Request targets: roots and paths compared decoded, in whatever way a client spelled them."""

import re
from collections.abc import Callable
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable_streams_core.errors import InvalidRequest
from durable_streams_server import MemoryStore, create_app, create_asgi
from durable_streams_server.http.parsing import parse_query, source_path
from durable_streams_server.http.targets import encode_path, parse_root, path_below, split_target

SEGMENTS = st.text(
    st.characters(exclude_characters="/%\\", exclude_categories=["Cs", "Cc"]),
    min_size=1,
    max_size=5,
).filter(lambda segment: segment not in (".", ".."))
ROOTS = st.lists(SEGMENTS, max_size=3).map("/".join)


@st.composite
def spelled(draw: st.DrawFn, path: str) -> str:
    """One of the ways to write a path in a URL: any octet may be percent-encoded."""
    pieces = []
    for octet in path.encode():
        character = chr(octet)
        if character == "/" or (
            octet < 0x80
            and re.fullmatch(r"[\w~!$&'()*+,;=:@.-]", character)
            and draw(st.booleans())
        ):
            pieces.append(character)
        else:
            pieces.append(draw(st.sampled_from([f"%{octet:02X}", f"%{octet:02x}"])))
    return "".join(pieces)


@given(data=st.data(), root=ROOTS, below=ROOTS)
def test_a_path_is_below_a_root_however_it_is_spelled(
    data: st.DataObject, root: str, below: str
) -> None:
    raw = data.draw(spelled(f"/{root}/" if root else "/")) + quote(below)
    assert path_below(raw, parse_root(root)) == quote(below)


@given(data=st.data(), root=ROOTS.filter(bool), other=ROOTS)
def test_a_path_elsewhere_is_not_below_a_root(data: st.DataObject, root: str, other: str) -> None:
    found = path_below(data.draw(spelled(f"/{other}")), parse_root(root))
    assert (found is not None) == f"/{other}".startswith(f"/{root}/")


@given(ROOTS)
def test_a_root_means_the_same_encoded_or_not(root: str) -> None:
    assert parse_root(encode_path(root)) == parse_root(root) == parse_root(f"/{root}/")
    assert parse_root(root).isascii()


@pytest.mark.parametrize(
    "root, encoded",
    [
        ("", "/"),
        ("/", "/"),
        ("v1/stream", "/v1/stream/"),
        ("/strøm", "/str%C3%B8m/"),
        ("/str%c3%b8m/", "/str%C3%B8m/"),
        ("/my streams", "/my%20streams/"),
        ("/100%", "/100%25/"),
    ],
)
def test_a_root_is_kept_as_urls_have_it(root: str, encoded: str) -> None:
    assert parse_root(root) == encoded


@pytest.mark.parametrize("root", ["/a//b", "/a/../b", "/./a", "/a/%2e%2e/b"])
def test_a_root_that_clients_cannot_request_is_refused(root: str) -> None:
    with pytest.raises(ValueError, match="must not have empty"):
        parse_root(root)


@pytest.mark.parametrize("create", [create_asgi, create_app])
def test_a_root_with_nothing_beside_it_is_refused_where_health_is_to_be_served(
    create: Callable[..., object], memory: MemoryStore
) -> None:
    with pytest.raises(ValueError, match="give a root such as"):
        create(memory, health=True)
    assert create(memory, root="/v1/stream", health=True)


@pytest.mark.parametrize(
    "raw", ["/my streams/x", "/my%2520streams/x", "/my%20streams", "/my%20streams%2Fx", "/x"]
)
def test_an_encoded_slash_and_a_missing_one_do_not_end_a_root(raw: str) -> None:
    assert path_below(raw, "/my%20streams/") is None


def test_the_absolute_form_of_a_target_is_understood() -> None:
    assert split_target("http://host/a?b=c?d") == ("/a", "b=c?d")
    assert split_target("HTTPS://host") == ("/", "")
    for target in ("*", "a", "ftp://host/a", "/a#b"):
        with pytest.raises(InvalidRequest):
            split_target(target)


@pytest.mark.parametrize(
    "query", ["offset=-1&live=sse", "%6fffset=%2D1&li%76e=s%73e", "x=y&offset=-1&&live=sse"]
)
def test_a_query_means_the_same_however_it_is_encoded(query: str) -> None:
    assert parse_query(query) == ("-1", "sse", None)


def test_a_parameter_given_twice_is_found_however_it_is_encoded() -> None:
    with pytest.raises(InvalidRequest, match="offset was given twice"):
        parse_query("offset=-1&%6Fffset=now")


@pytest.mark.parametrize(
    "source, root, public_root, path",
    [
        ("/ds/src", "/", "/ds/", "src"),
        ("/src", "/", "/ds/", "src"),
        ("src", "/", "/ds/", "src"),
        ("/edge/v1/src", "/v1/", "/edge/v1/", "src"),
        ("/v1/src", "/v1/", "/edge/v1/", "src"),
        ("/str%C3%B8m/a%20b", "/str%C3%B8m/", "/str%C3%B8m/", "a b"),
        ("/%64s/src", "/", "/ds/", "src"),
    ],
)
def test_the_source_of_a_fork_is_named_by_its_public_path_or_its_own(
    source: str, root: str, public_root: str, path: str
) -> None:
    assert source_path(source, root, public_root, 1024) == path


def test_the_source_of_a_fork_has_to_be_encoded() -> None:
    with pytest.raises(InvalidRequest, match="Percent-encode"):
        source_path("/strøm/src", "/str%C3%B8m/", "/str%C3%B8m/", 1024)
