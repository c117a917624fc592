"""Notice the cursors that are made by their class, past ``connection.cursor()``.

``psycopg2.extensions.cursor(connection)`` makes a cursor without calling any method of
the connection: psycopg2's C code works on its memory. What can be wrapped are the
methods of psycopg2's cursor class, from which every cursor class inherits. It is a C
class, whose attributes Python code can't assign to: so the methods are exchanged in its
namespace, once per process, when this driver is first used. On a connection that isn't
pooled a wrapped method does nothing but look at the connection's class.
"""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable
from functools import wraps
from typing import Any

from psycopg2 import extensions

from dbpool_mw.drivers.postgresql.statements import effect

from .connection import TrackedConnection
from .cursor import text_of

_METHODS = ("execute", "executemany", "callproc", "copy_expert", "copy_from", "copy_to")


def notice_cursors_made_by_class() -> None:
    """Have a pooled connection's session count as dirty when such a cursor is used."""
    (namespace,) = gc.get_referents(extensions.cursor.__dict__)
    for name in _METHODS:
        if not hasattr(namespace[name], "__wrapped__"):
            namespace[name] = _noticing(namespace[name])
    # The interpreter caches where it found a method.
    ctypes.pythonapi.PyType_Modified(ctypes.py_object(extensions.cursor))


def _noticing(method: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(method)
    def noticing(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not getattr(self, "is_tracking", False):
            connection = self.connection
            if isinstance(connection, TrackedConnection):
                statement = text_of(args[0] if args else "", self)
                connection.mark_dirty(effect(statement).not_resettable)
        return method(self, *args, **kwargs)

    return noticing
