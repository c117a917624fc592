"""Links between the documents, as they work in a checkout: `text <sizing.rst#anchor>`_.

On the site they lead to the pages, by their titles where the text is the file's name,
and other files of docs/ are offered as downloads. A link that leads nowhere is a
warning.
"""

from __future__ import annotations

import posixpath
from urllib.parse import urlsplit

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util import logging
from sphinx.util.typing import ExtensionMetadata

logger = logging.getLogger(__name__)


def setup(app: Sphinx) -> ExtensionMetadata:
    """Add the two transforms."""
    app.add_transform(Downloads)
    app.add_post_transform(Pages)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _path(node: nodes.reference, docname: str) -> str | None:
    """Return the path under docs/ that a link leads to, None if it leads elsewhere."""
    address = urlsplit(node.get("refuri", ""))
    if node.get("internal") or address.scheme or not address.path:
        return None
    return posixpath.normpath(posixpath.join(posixpath.dirname(docname), address.path))


class Downloads(SphinxTransform):
    """Offer the files that links lead to, and that are no documents."""

    default_priority = 500

    def apply(self, **kwargs: object) -> None:
        """Replace the links of one document."""
        for node in list(self.document.findall(nodes.reference)):
            docname = self.env.docname
            path = _path(node, docname)
            if path is None or path.endswith(".rst"):
                continue
            if (self.env.srcdir / path).is_file():
                download = addnodes.download_reference(
                    reftarget=f"/{path}", refdoc=docname
                )
                download += node.children
                node.replace_self(download)


class Pages(SphinxPostTransform):
    """Lead links to the pages of the documents."""

    default_priority = 5

    def run(self, **kwargs: object) -> None:
        """Replace the addresses in one document."""
        for node in list(self.document.findall(nodes.reference)):
            path = _path(node, self.env.docname)
            if path is None:
                continue
            docname, suffix = posixpath.splitext(path)
            anchor = urlsplit(node["refuri"]).fragment
            if suffix != ".rst" or docname not in self.env.found_docs:
                logger.warning("no such document: %s", node["refuri"], location=node)
            elif anchor and anchor not in self.env.get_doctree(docname).ids:
                logger.warning("no such anchor: %s", node["refuri"], location=node)
            else:
                node["refuri"] = self.app.builder.get_relative_uri(
                    self.env.docname, docname
                ) + (f"#{anchor}" if anchor else "")
                node["internal"] = True
                if node.astext() == posixpath.basename(path):
                    node[:] = self.env.titles[docname].deepcopy().children
