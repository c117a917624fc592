"""Anchors of the settings and of the checks, from what the documents show anyway.

A setting is a term of a definition list, ``DBPOOL_MW_TIMEOUT``; its anchor is
``dbpool-mw-timeout``. A check is the first cell of a table's row, dbpool_mw.E013; its
anchor is ``e013``. Both are labels too, which other projects find in objects.inv.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform
from sphinx.util.typing import ExtensionMetadata

_SETTING = re.compile(r"DBPOOL_MW_[A-Z_]+")
_CHECK = re.compile(r"dbpool_mw\.([EWI]\d{3})")


def setup(app: Sphinx) -> ExtensionMetadata:
    """Add the transform, and the types of what has an anchor."""
    app.add_object_type("setting", "setting")
    app.add_object_type("check", "check")
    app.add_transform(Anchors)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


class Anchors(SphinxTransform):
    """Give settings and checks their anchors."""

    default_priority = 500

    def apply(self, **kwargs: object) -> None:
        """Give those of one document their anchors."""
        domain = self.env.domains.standard_domain
        for kind, name, anchor, node in _found(self.document):
            node["ids"].append(anchor)
            self.document.note_explicit_target(node)
            domain.note_object(kind, name, anchor, location=node)


def _found(document: nodes.document) -> Iterator[tuple[str, str, str, nodes.Element]]:
    """Return the kind, the name, the anchor and the node of each."""
    for term in document.findall(nodes.term):
        if _SETTING.fullmatch(term.astext()):
            yield "setting", term.astext(), nodes.make_id(term.astext()), term
    for row in document.findall(nodes.row):
        check = _CHECK.fullmatch(row[0].astext())
        if check:
            yield "check", check[0], check[1].lower(), row
