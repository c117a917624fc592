"""Configuration of Sphinx for the site of these documents, which `make docs` builds."""

from __future__ import annotations

import sys
from pathlib import Path

import django
from django.conf import settings

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE / "_ext")]

import dbpool_mw  # noqa: E402

# What autodoc imports needs a Django that is set up.
settings.configure(
    INSTALLED_APPS=[
        "dbpool_mw",
        "django.contrib.admin",
        "django.contrib.auth",
        "django.contrib.contenttypes",
    ]
)
django.setup()

project = "dbpool_mw"
author = copyright = "dbpool_mw contributors"
release = version = dbpool_mw.__version__

extensions = [
    "sphinx.ext.autodoc",
    "anchors",
    "relative_links",
]
exclude_patterns = ["_ext"]
html_theme = "furo"
html_title = f"{project} {release}"

# The docstrings say what is passed and returned, and the package has type hints.
autodoc_typehints = "none"
autodoc_preserve_defaults = True
