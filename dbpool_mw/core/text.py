"""Text from outside, as logs, errors and terminals may show it.

A request's path, a thread's name, a server's error: others choose what stands there and
how long it is. Every message shows such text escaped and shortened, so that nobody can
add a line to a log or act upon a terminal.
"""

from __future__ import annotations

#: The most characters of a single name, of a request (method and path), of a statement,
#: of an error that another message quotes, and of a whole message.
NAME = 80
REQUEST = 200
STATEMENT = 1000
ERROR = 1000
MESSAGE = 4000

_MORE = "..."


def printable(text: str) -> str:
    """Return the text with every character escaped that a terminal may act upon.

    A text that is printable already stays as it is.
    """
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode() for c in text
    )


def shortened(text: str, width: int) -> str:
    """Return the text made printable and cut to `width` characters."""
    text = printable(text[: width + 1])
    return text if len(text) <= width else text[: width - len(_MORE)] + _MORE


def one_line(text: str, width: int = MESSAGE) -> str:
    """Return a text of several lines as one, made printable and cut to `width`."""
    # Longer than what is shown, because the white space goes.
    return shortened(" ".join(text[: 4 * width].split()), width)
