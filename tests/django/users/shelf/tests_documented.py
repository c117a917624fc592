"""The examples of docs/testing.rst, run as they stand there; for both runners."""

from tests.django.users.shelf.models import Book  # noqa: F401
from tests.django.users.shelf.stock import restock  # noqa: F401
from tests.documents import code_blocks

for _block in code_blocks("docs/testing.rst"):
    exec(_block)
