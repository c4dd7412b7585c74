"""Sphinx: how `make docs` builds the documentation. What is made of tables and notebooks is in docs/_ext."""

import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "docs" / "_ext")]

_project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

project = "Lottery ticket lab"
author = "the authors named in CITATION.cff"
copyright = "the authors named in CITATION.cff; MIT licence"
release = _project["version"]

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.viewcode", "sphinx_design", "lab"]
exclude_patterns = ["_ext", "requirements.txt"]

# the committed outputs of notebooks are shown; nothing is executed
nb_execution_mode = "off"
nb_merge_streams = True
nb_render_markdown_format = "myst"
nb_mime_priority_overrides = [("html", "image/png", 5), ("html", "text/html", 10)]
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath", "html_image", "attrs_inline"]
myst_heading_anchors = 3
myst_url_schemes = ("http", "https", "mailto")
suppress_warnings = ["mystnb.unknown_mime_type"]

# docstrings are plain text with code in single backticks
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_mock_imports = ["ray", "codecarbon"]  # optional, and large
autodoc_default_options = {"members": True, "show-inheritance": False}
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
add_module_names = False

html_theme = "furo"
html_title = "Lottery ticket lab"
html_static_path = ["_static"]
html_css_files = ["lab.css"]
html_favicon = "_static/icon.svg"
html_theme_options = {
    "source_repository": _project["urls"]["Repository"],
    "source_branch": "main",
    "source_directory": "docs/",
    "top_of_page_buttons": [],
    "footer_icons": [],
}
html_copy_source = False
html_show_sourcelink = False
