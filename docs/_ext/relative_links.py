"""Links between the documents, as they work in a checkout: `text <sizing.rst#anchor>`_.

On the site they lead to the pages, by their titles where the text is the file's name,
and other files of docs/ are offered as downloads. A file beside docs/, such as
CONTRIBUTING.rst, is the page that includes it, contributing. A link that leads nowhere
is a warning.
"""

from __future__ import annotations

from pathlib import Path
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


def _file(node: nodes.reference) -> Path | None:
    """Return the file that a link leads to, None if it is none of the checkout's."""
    address = urlsplit(node.get("refuri", ""))
    if node.get("internal") or address.scheme or not address.path:
        return None
    origin: nodes.Element = node
    while origin.source is None:
        origin = origin.parent
    return (Path(origin.source).parent / address.path).resolve()


class Downloads(SphinxTransform):
    """Offer the files that links lead to, and that are no documents."""

    default_priority = 500

    def apply(self, **kwargs: object) -> None:
        """Replace the links of one document."""
        docs = Path(self.env.srcdir)
        for node in list(self.document.findall(nodes.reference)):
            file = _file(node)
            if file is None or file.suffix == ".rst" or not file.is_file():
                continue
            if file.is_relative_to(docs):
                download = addnodes.download_reference(
                    reftarget=f"/{file.relative_to(docs)}", refdoc=self.env.docname
                )
                download += node.children
                node.replace_self(download)


class Pages(SphinxPostTransform):
    """Lead links to the pages of the documents."""

    default_priority = 5

    def run(self, **kwargs: object) -> None:
        """Replace the addresses in one document."""
        for node in list(self.document.findall(nodes.reference)):
            file = _file(node)
            if file is None:
                continue
            docname = self._docname(file)
            anchor = urlsplit(node["refuri"]).fragment
            if docname not in self.env.found_docs:
                logger.warning("no such document: %s", node["refuri"], location=node)
            elif anchor and anchor not in self.env.get_doctree(docname).ids:
                logger.warning("no such anchor: %s", node["refuri"], location=node)
            else:
                node["refuri"] = self.app.builder.get_relative_uri(
                    self.env.docname, docname
                ) + (f"#{anchor}" if anchor else "")
                node["internal"] = True
                if Path(node.astext()).name == file.name:
                    node[:] = self.env.titles[docname].deepcopy().children

    def _docname(self, file: Path) -> str:
        """Return the name of the page that a file is on."""
        docs = Path(self.env.srcdir)
        if file.suffix != ".rst":
            return ""
        if file.parent == docs.parent:
            return file.stem.lower().replace("_", "-")
        if file.is_relative_to(docs):
            return file.relative_to(docs).with_suffix("").as_posix()
        return ""
