"""How Sphinx builds these pages; `nox -s docs` runs it, with every warning an error."""

from importlib.metadata import version as distribution_version

project = "Durable Streams for Python"
author = "The durable-streams-python contributors"
copyright = "2026, the durable-streams-python contributors"  # noqa: A001 (Sphinx's own name)
version = release = distribution_version("durable-streams-core")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx_copybutton",
]
exclude_patterns = ["_build", "examples"]

html_theme = "furo"
html_title = project

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

autodoc_typehints = "signature"
autodoc_member_order = "bysource"

copybutton_exclude = ".linenos, .gp, .go"
copybutton_prompt_text = "$ "
copybutton_line_continuation_character = "\\"
