"""Where the documents are that messages name."""

from __future__ import annotations

#: The site of the newest release.
SITE = "https://django-dbpool-mw.readthedocs.io/en/stable/"


def address(page: str, anchor: str) -> str:
    """Return the address of a section: ``page`` is the file in docs/, without .rst."""
    return f"{SITE}{page}.html#{anchor}"


def see(page: str, anchor: str) -> str:
    """Return a sentence that says where a section is, on the site and offline.

    dbpool_mw/docs links the pages that are named so into the package, and thus into
    the wheel.
    """
    return f"See {address(page, anchor)} (installed as dbpool_mw/docs/{page}.rst)."
