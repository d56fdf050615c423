"""The page of error codes lists exactly the codes that the packages send, with their statuses."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from durable_streams_core.errors import SubscriptionError

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "errors.md").read_text()
SOURCES = [
    path
    for name in ("core", "server", "redis")
    for path in sorted((ROOT / "packages" / f"durable-streams-{name}" / "src").rglob("*.py"))
]
DECIDED_LATER = {"unavailable": {503}, "storage-full": {507}}
"""Codes with which a store refuses a commit; the engine gives them their statuses."""


TREES = [ast.parse(path.read_text()) for path in SOURCES]


def constants() -> dict[str, object]:
    """The texts that have a name at the top of a module."""
    return {
        statement.target.id: statement.value.value
        for tree in TREES
        for statement in tree.body
        if isinstance(statement, ast.AnnAssign)
        and isinstance(statement.target, ast.Name)
        and isinstance(statement.value, ast.Constant)
    }


NAMED = constants()


def literal(node: ast.expr | None) -> object:
    """The value of an expression that is one, or the name of one."""
    if isinstance(node, ast.Name):
        return NAMED.get(node.id)
    return node.value if isinstance(node, ast.Constant) else None


def first_texts(*names: str) -> set[object]:
    """The first argument of each call of these names, where it is a text."""
    return {
        literal(node.args[0])
        for tree in TREES
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in names and node.args
    }


def made_in(node: ast.AST) -> Iterator[tuple[str, object, object]]:
    """The class, the code and the status, if they are literal, of each error that is made here."""
    for each in ast.walk(node):
        if isinstance(each, ast.Call):
            given = {keyword.arg: keyword.value for keyword in each.keywords}
            if "code" in given:
                name = getattr(each.func, "id", getattr(each.func, "attr", ""))
                yield name, literal(given["code"]), literal(given.get("status"))


def errors_of(tree: ast.Module) -> Iterator[tuple[str, str, object]]:
    """The class, the code and the status, if it is given, of each error that a module makes, also
    through a function that takes the code.
    """
    for name, code, status in made_in(tree):
        if isinstance(code, str):
            yield name, code, status
    for function in ast.walk(tree):
        if not isinstance(function, ast.FunctionDef):
            continue
        parameters = [argument.arg for argument in function.args.args]
        if "code" not in parameters or function.name == "__init__":
            continue
        position = parameters.index("code")
        for made, _, status in made_in(function):
            for call in ast.walk(tree):
                if isinstance(call, ast.Call) and getattr(call.func, "id", "") == function.name:
                    code = literal(call.args[position]) if len(call.args) > position else None
                    if isinstance(code, str):
                        yield made, code, status


def classes_of(tree: ast.Module) -> Iterator[tuple[str, list[str], dict[str, object]]]:
    """Name, bases and literal attributes of each class of a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            attributes = {}
            for statement in node.body:
                if isinstance(statement, ast.Assign | ast.AnnAssign):
                    targets = (
                        statement.targets
                        if isinstance(statement, ast.Assign)
                        else [statement.target]
                    )
                    for target in targets:
                        if isinstance(target, ast.Name) and literal(statement.value) is not None:
                            attributes[target.id] = literal(statement.value)
            yield node.name, [ast.unparse(base) for base in node.bases], attributes


def codes_of_the_source() -> dict[str, set[int]]:
    classes = {
        name: (bases, attributes)
        for tree in TREES
        for name, bases, attributes in classes_of(tree)
        if not name.startswith("_")
    }

    def attribute(name: str, wanted: str) -> object:
        bases, attributes = classes.get(name, ([], {}))
        return attributes.get(wanted) or next(
            (found for base in bases if (found := attribute(base, wanted))), None
        )

    found: dict[str, set[int]] = {code: {s} for code, s in SubscriptionError.STATUS.items()}
    found |= DECIDED_LATER
    for name in classes:
        code, status = attribute(name, "code"), attribute(name, "status")
        if isinstance(code, str) and isinstance(status, int):
            found.setdefault(code, set()).add(status)
    for tree in TREES:
        for name, code, given in errors_of(tree):
            status = given or attribute(name, "status")
            if isinstance(status, int):
                found.setdefault(code, set()).add(status)
            else:
                assert code in found, f"the status of {code!r} cannot be told from the source"
    return found


def test_the_page_of_error_codes_lists_every_code_and_no_other() -> None:
    rows = re.findall(r"^\| `([\w-]+)` \| (\d{3}) \| [^|]+ \| [^|]+ \|$", PAGE, re.MULTILINE)
    listed = {code: {int(status)} for code, status in rows}
    assert len(listed) == len(rows)
    assert listed == codes_of_the_source()


def test_the_page_lists_every_code_of_readiness_and_no_other() -> None:
    listed = re.findall(r"^\| `([\w-]+)` \| [^|\d]+ \| [^|]+ \|$", PAGE, re.MULTILINE)
    assert len(set(listed)) == len(listed)
    known = {code for code in first_texts("Readiness", "Refused") if isinstance(code, str)}
    assert {"starting", "store-failed"} <= known
    assert set(listed) == known - {"ready"}


def test_no_row_of_the_page_is_left_out() -> None:
    assert PAGE.count("\n| `") == len(re.findall(r"^\| `[\w-]+` \| ", PAGE, re.MULTILINE))


def test_the_search_for_codes_finds_the_ways_in_which_they_are_written() -> None:
    tree = ast.parse(
        "class Odd(NotFound):\n    code = 'odd'\n"
        "raise Odd('…', code='given', status=418)\n"
        "raise http.errors.Odd('…', code=other.code)\n"
        "def _token(message, code):\n    return NotFound(message, status=401, code=code)\n"
        "raise _token('…', 'through')\n"
    )
    assert list(classes_of(tree)) == [("Odd", ["NotFound"], {"code": "odd"})]
    assert list(errors_of(tree)) == [
        ("Odd", "given", 418),
        ("NotFound", "through", 401),
    ]
