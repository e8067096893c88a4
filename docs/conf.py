"""How the site is built: `sphinx-build -W docs docs/_build/html`, without a network."""

import os
import sys
from importlib import metadata
from pathlib import Path

HERE = Path(__file__).parent
# The gallery's problems are small: threads would only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path[:0] = [str(HERE / "_extensions"), str(HERE.parent), str(HERE.parent / "backends")]

from sphinx_gallery.sorting import ExplicitOrder  # noqa: E402 (after the path to extensions)

project = "specop"
author = "The specop authors"
release = version = metadata.version("specop")
language = "en"

extensions = [
    "sphinx.ext.autodoc",
    "numpydoc",
    "myst_parser",
    "sphinx_design",
    "sphinx_copybutton",
    "sphinx_gallery.gen_gallery",
    "mathml",
    "api_pages",
    "messages",
    "roles",
]
exclude_patterns = ["_build", "_extensions", "_static", "gallery"]

# Every reference must lead somewhere. Types of parameters are words for people and no references.
nitpicky = True
default_role = "name"
autodoc_typehints = "none"
autodoc_member_order = "bysource"
# Beside a page of one class its name before each method leaves no room for the method's.
toc_object_entries_show_parents = "hide"
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False

myst_enable_extensions = ["colon_fence", "dollarmath", "deflist", "attrs_inline"]
myst_heading_anchors = 4
myst_links_external_new_tab = False

math_renderer = "mathml"
html_math_renderer = "mathml"
html_theme = "pydata_sphinx_theme"
html_title = f"specop {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {
    "navbar_align": "left",
    "show_prev_next": False,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": ["theme-version"],
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
# Pages without pages below them have the whole width.
ALONE = ["index", "start", "choose", "concepts", "errors", "messages", "examples", "benchmarks", "truth", "extending"]
html_sidebars = {page: [] for page in [*ALONE, "functions", "reproductions", "parallel", "scale", "changelog"]}
copyright = "The specop authors, Apache-2.0"

ORDER = ["density", "sharpness", "surface", "traces", "pruning", "influence"]
sphinx_gallery_conf = {
    "examples_dirs": "gallery",
    "gallery_dirs": "_gallery",
    "filename_pattern": r"\.py$",
    "within_subsection_order": ExplicitOrder([*(f"{name}.py" for name in ORDER), "*"]),
    "download_all_examples": False,
    "show_signature": False,
    "show_memory": False,
    "min_reported_time": 1e9,
    "reference_url": {},
    "plot_gallery": True,
    "capture_repr": (),
    "abort_on_example_error": True,
    "remove_config_comments": True,
    "image_scrapers": ("matplotlib",),
    "thumbnail_size": (400, 280),
}
