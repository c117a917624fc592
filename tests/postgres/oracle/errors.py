"""What the server says instead of an answer."""

from __future__ import annotations


class ServerError(Exception):
    """The server refused a question; the argument is the SQLSTATE."""
