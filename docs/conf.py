"""How Sphinx builds these pages; `nox -s docs` runs it, with every warning an error."""

from importlib.metadata import version as distribution_version
from typing import Any

from sphinx.ext.napoleon import Config, GoogleDocstring

project = "Durable Streams for Python"
author = "The durable-streams-python contributors"
copyright = "2026, the durable-streams-python contributors"  # noqa: A001 (Sphinx's own name)
PACKAGES = (
    *("durable-streams-core", "durable-streams-server", "durable-streams-client"),
    *("durable-streams-redis", "durable-streams-runs", "pytest-durable-streams"),
)

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx_click",
    "sphinx_copybutton",
]
exclude_patterns = ["_build", "examples"]

html_theme = "furo"
html_title = project

myst_enable_extensions = ["colon_fence", "deflist", "substitution"]
# Each package has a version of its own; the start page names those that it describes.
myst_substitutions = {
    "versions": ", ".join(
        f"{package.removeprefix('durable-streams-')} {distribution_version(package)}"
        for package in PACKAGES
    )
}
myst_heading_anchors = 3

# Links into other projects' documentation would need the network while building.
nitpick_ignore_regex = [
    (
        "py:.*",
        r"(aiohttp|asyncio|collections|contextlib|datetime|mcp|mcp_types|opentelemetry|os|pathlib|sqlite3|ssl|typing)\..*",
    ),
    ("py:data", r"[A-Z_]+"),  # constants
    # Like the sync ones, which are documented.
    ("py:class", r"durable_streams_client\.Async.*"),
    # Type variables, and what type checkers alone need.
    ("py:class", r"((durable_streams_client|pytest_durable_streams)\..*\.)?(T|TypeForm)"),
    ("py:class", r"durable_streams_client\.item_types\.Validator"),
    ("py:class", r"durable_streams_core\.operations\.(Answer|Result)"),  # another
    # Made by the command, which hands them to the collector of metrics.
    (
        "py:class",
        r"durable_streams_server\.(frontends\.tls\.Certificate|operations\.log_handler\.LineHandler)",
    ),
    # Internal to core: what a stream and a subscription are kept as.
    ("py:class", r"durable_streams_core\.(streams|subscriptions\.records)\..*"),
]

autodoc_typehints = "signature"
autodoc_member_order = "bysource"

copybutton_exclude = ".linenos, .gp, .go"
copybutton_prompt_text = "$ "
copybutton_line_continuation_character = "\\"


def resolve_bare_name(app: Any, env: Any, node: Any, content: Any) -> Any:
    """Docstrings say `Store` where the code does, in whichever package it is documented."""
    if node.get("refdomain") != "py" or node.get("refspecific"):
        return None
    node["refspecific"] = True
    domain = env.get_domain("py")
    return domain.resolve_xref(
        env, node["refdoc"], app.builder, node["reftype"], node["reftarget"], node, content
    )


def read_sections(app: Any, what: str, name: str, *rest: Any) -> None:
    """``Args:``, ``Returns:`` and ``Raises:``; attributes have none, and may have a colon."""
    obj, options, lines = rest
    if what in ("function", "method", "class", "exception"):
        lines[:] = GoogleDocstring(lines, Config(), app, what, name, obj, options).lines()


def setup(app: Any) -> None:
    app.connect("autodoc-process-docstring", read_sections)
    app.connect("missing-reference", resolve_bare_name)
