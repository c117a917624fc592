"""Which parameters psycopg writes into a statement as literals, whatever they contain.

Only a cursor that binds on the client writes any. psycopg asks the dumper of a value's
type to quote it, and a dumper of psycopg's quotes what it is given; one of the
project's may write anything.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from psycopg.adapt import PyFormat

_AUTO = PyFormat.AUTO


@lru_cache(maxsize=512)
def _quotes(dumper: type) -> bool:
    """Tell whether the values of a dumper's are quoted by psycopg's own code."""
    for name in ("quote", "upgrade"):
        owner = next((each for each in dumper.__mro__ if name in vars(each)), dumper)
        if owner.__module__.partition(".")[0] not in _KNOWN:
            return False
    return True


#: The packages whose dumpers quote: psycopg's own, and Django's, which use those.
_KNOWN = frozenset({"psycopg", "psycopg_c", "psycopg_binary", "django"})


def are_literals(cursor: Any, params: Any) -> bool:
    """Tell whether psycopg writes each of a statement's parameters as a literal.

    The project may register other dumpers at any time, so each type's is looked at.
    """
    container = type(params)
    if container is dict:
        params = params.values()
    elif container is not tuple and container is not list:
        return False
    get_dumper = cursor.adapters.get_dumper
    before = None
    for value in params:
        kind = type(value)
        if kind is before or value is None:
            continue
        try:
            if not _quotes(get_dumper(kind, _AUTO)):
                return False
        except Exception:  # psycopg raises it
            return False
        before = kind
    return True
