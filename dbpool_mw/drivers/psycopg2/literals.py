"""Which parameters psycopg2 writes into a statement as literals, whatever they contain.

Such a value can't become code. A value of any other type may: ``AsIs`` does, and so
does an adapter of the project's.
"""

from __future__ import annotations

import datetime
import decimal
import uuid
from typing import Any

import psycopg2._psycopg as _psycopg
from psycopg2 import extensions, extras

_PROTOCOL = extensions.ISQLQuote
_adapters = extensions.adapters
_binary, _text = extensions.Binary, extensions.QuotedString

#: Types, by their exact classes, and psycopg2's own adapters for them. None: the type
#: has no adapter, because it is one; Json refuses to quote what isn't a text.
_OWN: dict[type, Any] = {
    bool: extensions.Boolean,
    bytearray: _binary,
    bytes: _binary,
    datetime.date: _psycopg.DateFromPy,
    datetime.datetime: _psycopg.TimestampFromPy,
    datetime.time: _psycopg.TimeFromPy,
    datetime.timedelta: _psycopg.IntervalFromPy,
    decimal.Decimal: _psycopg.Decimal,
    extensions.Binary: None,
    extras.Json: None,
    float: extensions.Float,
    int: extensions.Int,
    list: _psycopg.List,
    memoryview: _binary,
    str: _text,
    tuple: extensions.SQL_IN,
    type(None): extensions.NoneAdapter,
    uuid.UUID: extras.UUID_adapter,
}
_OWN_BY_TYPE = {kind: ((kind, _PROTOCOL), own) for kind, own in _OWN.items()}


def are_literals(values: Any) -> bool:
    """Tell whether psycopg2 writes each of a statement's parameters as a literal.

    The project may register other adapters at any time, so each type's is looked at.
    """
    container = type(values)
    if container is dict:
        values = values.values()
    elif container is not tuple and container is not list:
        return False
    before = None
    for value in values:
        kind = type(value)
        if kind is before:
            continue
        # A subclass of str may have psycopg2's adapter, as Django's SafeString has.
        key, own = _OWN_BY_TYPE.get(kind) or ((kind, _PROTOCOL), _text)
        if _adapters.get(key) is not own:
            return False
        if kind is not list and kind is not tuple:
            before = kind
        elif not are_literals(value):
            return False
    return True
