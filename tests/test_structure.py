"""The shape of the source: no import circles, no class too long, no retired words."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
LONGEST_CLASS = 300

# Words that had a second meaning or a field term, and the word that is used instead.
RETIRED = {
    "farewell": "drain, finish",
    "herd": "readers",
    "crowd": "readers",
    "lane": "commit queue",
    "lately": "TwoGenerationCache",
    "news": "notification",
    "prompt_?store": "immediate store",
    "standings": "positions",
    "submission": "ticket, commit",
}


def modules() -> dict[str, Path]:
    """Every module by its dotted name; generated ones are left out."""
    found = {}
    for path in ROOT.glob("packages/*/src/**/*.py"):
        if "_sync" not in path.parts:
            parts = path.with_suffix("").parts
            name = ".".join(parts[parts.index("src") + 1 :]).removesuffix(".__init__")
            found[name] = path
    return found


MODULES = modules()
TESTS = [
    path
    for pattern in ("packages/*/tests/**/*.py", "tests/**/*.py", "benchmarks/*.py")
    for path in ROOT.glob(pattern)
    if "_sync" not in path.parts
]
TREES = {name: ast.parse(path.read_text()) for name, path in MODULES.items()}


def imported(body: list[ast.stmt]) -> Iterator[str]:
    """The imports of a module when it is imported: not for types only, nor inside functions."""
    for node in body:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from imported(node.orelse)
        elif isinstance(node, ast.If | ast.Try | ast.With):
            yield from imported([*node.body, *getattr(node, "orelse", [])])
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                yield submodule if submodule in MODULES else node.module


def test_there_is_no_import_circle() -> None:
    arrows = {
        name: {each for each in imported(tree.body) if each in MODULES} - {name}
        for name, tree in TREES.items()
    }
    # Take away what imports nothing that is left; whatever remains goes round in circles.
    while leaves := [name for name, wanted in arrows.items() if not wanted]:
        for leaf in leaves:
            del arrows[leaf]
        for wanted in arrows.values():
            wanted.difference_update(leaves)
    assert not arrows


def test_a_long_class_says_why() -> None:
    silent = [
        f"{name}.{node.name}: {node.end_lineno - node.lineno} lines"
        for name, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
        and node.end_lineno is not None
        and node.end_lineno - node.lineno > LONGEST_CLASS
        and "long because" not in " ".join((ast.get_docstring(node) or "").lower().split())
    ]
    assert not silent


def test_retired_words_stay_away() -> None:
    """See docs/glossary.md for the words that took their place."""
    pattern = re.compile(
        "|".join(rf"(?<![a-z]){word}s?(?![a-z])" for word in RETIRED), re.IGNORECASE
    )
    scripts = ROOT.glob("packages/*/src/**/*.lua")
    pages = [page for page in ROOT.glob("docs/*.md") if page.name != "glossary.md"]
    tests = [path for path in TESTS if path != Path(__file__)]
    found = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for path in (*MODULES.values(), *scripts, *pages, *tests)
        for line in path.read_text().splitlines()
        if pattern.search(line)
    ]
    assert not found


def test_header_names_are_spelled_once() -> None:
    """The server's bytes are in ``http/names.py``, made from core's ``protocol.py``."""
    from durable_streams_server.http import names

    spelled = {value for value in vars(names).values() if isinstance(value, bytes)}
    repeated = [
        f"{name}:{node.lineno}: {node.value!r}"
        for name, tree in TREES.items()
        if name.startswith("durable_streams_server.") and not name.endswith(".names")
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and node.value in spelled
    ]
    assert not repeated
