"""Which parameters psycopg writes into a statement as literals, whatever they contain.

Only a cursor that binds on the client writes any. psycopg asks the dumper of a value's
type to quote it, and a dumper of psycopg's quotes what it is given; one of the
project's may write anything.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import psycopg
from psycopg.adapt import PyFormat

#: The format that psycopg asks for where it writes a literal, whatever the placeholder.
_FORMAT = PyFormat.TEXT

#: The packages whose dumpers quote: psycopg's own, and Django's, which use those.
_KNOWN = frozenset({"psycopg", "psycopg_c", "psycopg_binary", "django"})

#: psycopg's base classes of dumpers, in Python and in C. Their ``quote`` escapes what
#: ``dump`` returns. Other classes of psycopg's write numbers as they are dumped.
_ESCAPING = frozenset({"Dumper", "CDumper"})


def are_literals(cursor: Any, params: Any) -> bool:
    """Tell whether psycopg writes each of a statement's parameters as a literal.

    The project may register other dumpers at any time, so each type's is looked at.
    """
    container = type(params)
    if container is dict:
        params = params.values()
    elif container is not tuple and container is not list:
        return False
    # Where psycopg's get_dumper() looks first. Calling it for each value would cost
    # more than all the rest.
    adapters = cursor._adapters
    dumpers = adapters._dumpers[_FORMAT]
    for value in params:
        dumper = dumpers.get(type(value))
        if dumper not in _OWN and not (
            value is None or _writes_literals(adapters, type(value))
        ):
            return False
    return True


def _writes_literals(adapters: Any, kind: type) -> bool:
    """Tell whether values of a type become literals, whatever they contain."""
    try:
        dumper = adapters.get_dumper(kind, _FORMAT)
    except Exception:  # psycopg raises it
        return False
    # A subclass may have a __str__ of the project's: its values have to be escaped.
    return _quotes(dumper, escaped=kind not in adapters._dumpers[_FORMAT])


@lru_cache(maxsize=512)
def _quotes(dumper: type, escaped: bool = False) -> bool:
    """Tell whether a dumper writes literals only; ``escaped``: by escaping them."""
    if not _is_known(_definer(dumper, "upgrade")):
        return False
    quotes = _definer(dumper, "quote")
    if not _is_known(quotes):
        return False
    if quotes.__name__ in _ESCAPING:
        return True
    return not escaped and _is_known(_definer(dumper, "dump"))


def _definer(dumper: type, name: str) -> type:
    """Return the class that a dumper has a method from."""
    return next((each for each in dumper.__mro__ if name in vars(each)), dumper)


def _is_known(owner: type) -> bool:
    return owner.__module__.partition(".")[0] in _KNOWN


#: psycopg's own dumpers: nearly every value has one of these.
_OWN = frozenset(filter(_quotes, psycopg.adapters._dumpers[_FORMAT].values()))
