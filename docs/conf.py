"""How Sphinx builds these pages: `make docs`."""

import sys
from pathlib import Path

import fastserverstate

sys.path.insert(0, str(Path(__file__).with_name("_extensions")))

project = "fastserverstate"
html_title = project
html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["tables.css"]
html_copy_source = False
html_show_copyright = False
html_use_index = False  # the search finds more
html_domain_indices = False

extensions = ["myst_parser", "api_reference"]
exclude_patterns = ["_extensions"]
myst_heading_anchors = 4  # as on GitHub, so that links work in both places

# In docstrings, `single` backticks are code, as in Markdown.
default_role = "code"
add_module_names = False
maximum_signature_line_length = 100
# Every reference to something of this package has to be right; the names of other packages are no links.
nitpicky = True
nitpick_ignore_regex = [(r"py:.*", rf"(?!{fastserverstate.__name__}).*")]
