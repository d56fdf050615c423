"""Writes the pages that list what the source says of itself: modules, and sizes and limits.

python docs/generate.py            write docs/modules.md and docs/sizes.md
python docs/generate.py --check    say which of them differ, and end with status 1
"""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

DOCS = Path(__file__).parent
PACKAGES = DOCS.parent / "packages"
NAMES = (
    *("durable-streams-core", "durable-streams-server", "durable-streams-client"),
    *("durable-streams-redis", "durable-streams-runs", "pytest-durable-streams"),
)

MODULES_HEAD = """# Modules

One line for each module, from its docstring. [Finding your way](finding-your-way.md) says where to
begin.
"""

SIZES_HEAD = """# Sizes and limits

The constants that bound something and say so, from the source. The options of a running server are described
with [the server](server.md) and in the [reference](reference.md).

Some depend on each other:

- `BACKLOG_BYTES` (fan-out) and `PAGE_BYTES` (SSE) are the same size: a live reader that fell behind
  gets at most one event of it before it goes back to the store.
- A cached page is at most `MAX_KEPT_BYTES` (pages), so that the page cache holds at most
  `2 * MAX_KEPT * MAX_KEPT_BYTES`; larger pages are made for each reader.
- `SMALL_CHANGE` (table) bounds the bytes that a commit carries to the fan-out. A larger append is
  announced without its bytes, and readers get it from the store.
- A commit carries at most `MAX_FLIGHT_BYTES` (commit queue), a commit group of the file store
  about `GROUP_BYTES`: it takes no further commit once it has reached that.
- `Options.max_body` is the largest append over HTTP. It counts the bytes of the request body as they are received;
  positions, page sizes and `size` in listings count stored bytes, where a JSON message is followed by
  two more.
"""


def sources(package: str) -> Iterator[tuple[str, ast.Module]]:
    """The modules of a package with their paths below it; what is generated is left out."""
    root = PACKAGES / package / "src" / package.replace("-", "_")
    for path in sorted(root.rglob("*.py")):
        if "_sync" not in path.parts:
            yield path.relative_to(root).as_posix(), ast.parse(path.read_text("utf-8"))


def plain(text: str) -> str:
    """The first sentence of a docstring, without the marks of Sphinx."""
    first = re.split(
        r"(?<=[.!?])\s", " ".join(text.split("\n\n", maxsplit=1)[0].split()), maxsplit=1
    )[0]
    first = re.sub(r":\w+(?::\w+)?:`~?\.?([^`]+)`", r"`\1`", first)
    return first.replace("``", "`").replace("|", "\\|")


def modules_page() -> str:
    lines = [MODULES_HEAD]
    for package in NAMES:
        lines += [f"\n## {package}\n", "| module | what it is |", "|---|---|"]
        for path, tree in sources(package):
            said = ast.get_docstring(tree)
            if said:
                lines.append(f"| `{path}` | {plain(said)} |")
    return "\n".join(lines) + "\n"


def constants(tree: ast.Module) -> Iterator[tuple[str, str, str]]:
    """Name, value and explanation of each constant that is a number."""
    for node, after in zip(tree.body, [*tree.body[1:], None], strict=True):
        target = node.target if isinstance(node, ast.AnnAssign) else None
        if isinstance(node, ast.Assign) and len(node.targets) == 1:
            target = node.targets[0]
        if not (isinstance(target, ast.Name) and re.fullmatch("_?[A-Z][A-Z0-9_]*", target.id)):
            continue
        value = getattr(node, "value", None)
        if value is None or not is_number(value):
            continue
        said = ""
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            said = plain(str(after.value.value))
        yield target.id, ast.unparse(value), said


def is_number(value: ast.expr) -> bool:
    """Whether an expression is made of numbers alone."""
    if isinstance(value, ast.Constant):
        return type(value.value) in (int, float)
    if isinstance(value, ast.BinOp):
        return is_number(value.left) and is_number(value.right)
    return False


def sizes_page() -> str:
    lines = [SIZES_HEAD]
    for package in NAMES:
        lines += [f"\n## {package}\n", "| constant | value | what it bounds |"]
        lines.append("|---|---|---|")
        for path, tree in sources(package):
            for name, value, said in constants(tree):
                if not name.startswith("_") and said:
                    lines.append(f"| `{name}` in `{path}` | `{value}` | {said} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    stale = 0
    for name, text in (("modules.md", modules_page()), ("sizes.md", sizes_page())):
        page = DOCS / name
        if "--check" not in sys.argv:
            page.write_text(text, "utf-8")
        elif not page.exists() or page.read_text("utf-8") != text:
            print(f"docs/{name} is out of date: run `nox -s generated -- --fix`")
            stale = 1
    return stale


if __name__ == "__main__":
    sys.exit(main())
