"""The package as its user sees it: its names, their help, their place in tracebacks."""

import ast
import copy
import inspect
import pickle
import pydoc
from collections.abc import Callable
from graphlib import TopologicalSorter
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import pytest

import durable_streams_client as ds

SOURCES: Final = Path(ds.__file__).parent
OBJECTS: Final = {name: getattr(ds, name) for name in ds.__all__}
OURS: Final = {
    name: each
    for name, each in OBJECTS.items()
    if inspect.isclass(each) or inspect.isfunction(each)
}
ROLES: Final = (":meth:", ":class:", ":func:", ":exc:", ":attr:", ":mod:", "~durable")


def issubclass_of_error(each: object) -> bool:
    return inspect.isclass(each) and issubclass(each, Exception)


def public_members(kind: type) -> dict[str, Any]:
    """Methods and properties that the class itself defines for its users."""
    return {
        name: member
        for name, member in vars(kind).items()
        if not name.startswith("_") and (callable(member) or isinstance(member, property))
    }


def test_it_knows_its_version() -> None:
    assert ds.__version__ == version("durable-streams-client")


@pytest.mark.parametrize("name", ["Client", "AsyncClient"])
def test_the_help_of_a_client_shows_its_public_names_only(name: str) -> None:
    text = pydoc.plain(pydoc.render_doc(OURS[name]))
    assert "stream(self, name: str" in text
    for internal in ("_sync", "_async", "<function", "<built-in", *ROLES):
        assert internal not in text


@pytest.mark.parametrize("name", OURS)
def test_docstrings_are_plain_text_without_roles(name: str) -> None:
    each = OURS[name]
    members = public_members(each) if inspect.isclass(each) else {}
    for documented in (each, *members.values()):
        assert not [role for role in ROLES if role in (inspect.getdoc(documented) or "")]


@pytest.mark.parametrize("name", OURS)
def test_signatures_name_types_as_users_import_them(name: str) -> None:
    each = OURS[name]
    members = public_members(each) if inspect.isclass(each) else {name: each}
    signatures = [str(inspect.signature(each)) for each in members.values() if callable(each)]
    assert not [text for text in signatures if "._sync" in text or "._async" in text]


@pytest.mark.parametrize("name", OURS)
def test_everything_public_has_a_docstring_of_its_own(name: str) -> None:
    each = OURS[name]
    assert each.__doc__, f"{name} has none"
    if inspect.isclass(each):
        bare = [member for member, value in public_members(each).items() if not value.__doc__]
        assert not bare, f"of {name}"


@pytest.mark.parametrize("name", OURS)
def test_everything_public_says_that_it_belongs_to_the_package(name: str) -> None:
    assert OURS[name].__module__ in {"durable_streams_client", "durable_streams_core.errors"}


ERRORS: Final = [each for each in OURS.values() if issubclass_of_error(each)]


def error_of(kind: type[Exception]) -> Exception:
    """An error of that class as the client raises it, with all that is known about the request."""
    if not issubclass(kind, ds.ClientError):
        return kind("It was refused.")
    about: dict[str, Any] = {"method": "POST", "url": "http://h/a?secret=1", "code": "c"}
    if kind is ds.NotStored:
        cause = ds.TimedOut("It took too long.", **about)
        return ds.NotStored("Some are not stored.", items=[b"1"], uncertain=1, cause=cause)
    return kind("It failed.", status=400, advice="Do it again.", **about)


@pytest.mark.parametrize("kind", ERRORS)
@pytest.mark.parametrize("copied", [copy.copy, lambda error: pickle.loads(pickle.dumps(error))])
def test_an_error_that_was_pickled_or_copied_says_the_same(
    kind: type[Exception], copied: Callable[[Exception], Exception]
) -> None:
    error = error_of(kind)
    again = copied(error)
    assert type(again) is kind
    assert str(again) == str(error)
    assert vars(again).keys() == vars(error).keys()
    if isinstance(error, ds.NotStored):
        assert isinstance(again, ds.NotStored)
        assert (again.items, again.uncertain, str(again.cause)) == ([b"1"], 1, str(error.cause))
    else:
        assert vars(again) == vars(error)


@pytest.mark.parametrize("kind", [kind for kind in ERRORS if issubclass(kind, ds.ClientError)])
def test_the_repr_of_an_error_names_the_request_and_no_secret(kind: type[Exception]) -> None:
    shown = repr(error_of(kind))
    assert shown.startswith(f"{kind.__name__}(")
    assert "POST http://h/a" in shown
    assert "secret" not in shown


def test_reprs_say_what_an_object_stands_for(tmp_path: Path) -> None:
    with ds.Client("http://user:secret@h/") as client:
        stream = client.stream("a")
        reader = stream.follow("17", checkpoint=ds.FileCheckpoint(tmp_path / "kept"))
        shown = [client, stream, reader, stream.producer("p"), ds.FileCheckpoint("kept")]
        assert [repr(each) for each in shown] == [
            "<Client http://h/>",
            "<Stream http://h/a>",
            "<Reader http://h/a at 17>",
            "<Producer 'p' of http://h/a>",
            "FileCheckpoint('kept')",
        ]


def imports(path: Path) -> set[Path]:
    """The modules of this package that a module imports, for types too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            base, *parts = node.module.split(".")
            if base == ds.__name__:
                place = SOURCES.joinpath(*parts)
                found.add(place.with_suffix(".py"))
                found |= {(place / alias.name).with_suffix(".py") for alias in node.names}
    return {each for each in found if each.exists()}


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = {path: imports(path) for path in SOURCES.rglob("*.py") if path.name != "__init__.py"}
    assert len(graph) > 20
    assert any(graph.values())
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


def test_an_error_and_its_advice_are_two_sentences() -> None:
    error = ds.InvalidArgument("offset must not be empty", advice="Use START.")
    assert str(error) == "offset must not be empty. Use START."
    assert str(ds.InvalidArgument("offset must not be empty")) == "offset must not be empty"
    assert str(ds.InvalidArgument("Refused.", advice="Ask.")) == "Refused. Ask."
