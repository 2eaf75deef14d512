"""Sphinx settings: Markdown pages on four shelves, and a reference made from docstrings."""

from stepwell import __version__

project = "Stepwell"
author = "The Stepwell authors"
release = version = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["_build"]

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

default_role = "literal"
autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_custom_sections = [("Cost", "notes_style"), ("Guarantee", "notes_style"), ("Differs", "notes_style")]
napoleon_use_rtype = False
add_module_names = False
suppress_warnings = ["ref.python"]  # a short name in a signature may be that of two classes; the link takes the first

html_theme = "furo"
html_title = f"Stepwell {__version__}"
html_theme_options = {"navigation_with_keys": True, "source_directory": "docs/"}
