"""Record what an ENGINE's ``connect()`` assigns to a wrapper, and assign it to others.

The pool opens a connection on one wrapper, a temporary one, and lends it to many. Some
ENGINEs keep what they know of the session on the wrapper: an authentication token, a
search path, statements that were prepared. Those attributes must follow the connection.
Which ones they are can't be known beforehand. So while ``connect()`` runs, the class of
the temporary wrapper is swapped for a subclass whose ``__setattr__`` records every
assignment. ``apply()`` later assigns the recorded attributes to the wrapper that checks
the connection out.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

#: The attribute of a temporary wrapper that holds its ``Recorder``.
_RECORDER = "_dbpool_mw_recorder"

#: The attribute of a wrapper that lists the execute_wrappers of its last connection.
_EXECUTE_WRAPPERS = "_dbpool_mw_execute_wrappers"

#: Attributes that don't follow the connection: ``apply()`` sets them anew, or they
#: belong to the wrapper.
_NOT_RECORDED = frozenset(
    {
        "atomic_blocks",
        "close_at",
        "connection",
        "execute_wrappers",
        "force_debug_cursor",
        "queries_log",
        "run_commit_hooks_on_set_autocommit_on",
        "run_on_commit",
        "savepoint_ids",
        "savepoint_state",
    }
)


@dataclass(frozen=True, slots=True)
class Recorded:
    """What follows a connection from wrapper to wrapper.

    Each wrapper gets the ``attributes`` as they are, and copies of the ``containers``:
    dicts, lists and sets, which their holders may change.
    """

    attributes: dict[str, Any]
    containers: dict[str, Any]
    execute_wrappers: list[Any]


class Recorder:
    """Records the attributes assigned to one temporary wrapper.

    An assignment of the present value counts: the next wrapper may have another value.

    Assignments during a query are left out. django-tenants, for example, sets the
    search path before a query and notes on the wrapper that it did: that is true of the
    temporary wrapper's tenant, and wrong for the tenant of the next wrapper.
    """

    def __init__(self) -> None:
        self._values: dict[str, Any] = {}
        self._running_queries = 0

    def record(self, name: str, value: Any) -> None:
        """Record an assignment."""
        if not self._running_queries and name not in _NOT_RECORDED:
            self._values[name] = value

    def without_recording(self, execute: Any, *args: Any, **kwargs: Any) -> Any:
        """Call ``execute`` and record nothing meanwhile; also an execute_wrapper."""
        self._running_queries += 1
        try:
            return execute(*args, **kwargs)
        finally:
            self._running_queries -= 1

    def result(self, wrapper: Any, before: Recorded | None = None) -> Recorded:
        """Return what was recorded, on top of what had been recorded ``before``."""
        state = vars(wrapper)
        attributes = {} if before is None else before.attributes.copy()
        containers = {} if before is None else before.containers.copy()
        for name, value in self._values.items():
            containers.pop(name, None)
            if type(value) in (dict, list, set):
                # A copy: each holder starts with the content of this moment.
                containers[name] = value.copy()
            elif name in state:
                attributes[name] = value
        execute_wrappers = [
            execute_wrapper
            for execute_wrapper in wrapper.execute_wrappers
            if execute_wrapper != self.without_recording
        ]
        return Recorded(attributes, containers, execute_wrappers)


def record(wrapper: Any) -> Recorder:
    """Record every assignment to a temporary wrapper from now on."""
    recorder = vars(wrapper)[_RECORDER] = Recorder()
    wrapper.execute_wrappers = [recorder.without_recording]
    # type(), because ``wrapper.__class__`` of a recording wrapper names the ENGINE's.
    engine: Any = type(wrapper)
    object.__setattr__(wrapper, "__class__", _recording_class(engine))
    return recorder


def is_recording(wrapper: Any) -> bool:
    """Tell whether a wrapper is a temporary one, on which the ENGINE connects."""
    return _RECORDER in vars(wrapper)


@cache
def _recording_class(engine: Any) -> Any:
    """Make the subclass of an ENGINE's DatabaseWrapper that records assignments.

    Its ``__class__`` is the ENGINE's class, because that is the sender of
    ``connection_created``, which receivers may be connected to.
    """

    def set_attribute(self: Any, name: str, value: Any) -> None:
        engine.__setattr__(self, name, value)
        recorder = vars(self).get(_RECORDER)  # None in a copy of a temporary wrapper
        if recorder is not None:
            recorder.record(name, value)

    def cursor(self: Any, *args: Any, **kwargs: Any) -> Any:
        recorder = vars(self).get(_RECORDER) or Recorder()
        return recorder.without_recording(engine._cursor, self, *args, **kwargs)

    return type(
        engine.__name__,
        (engine,),
        {
            "__module__": engine.__module__,
            "__class__": property(lambda self: engine),
            "__setattr__": set_attribute,
            "_cursor": cursor,
        },
    )


def apply(wrapper: Any, connection: Any, recorded: Recorded, now: float) -> None:
    """Put a connection on a wrapper, as Django's ``connect()`` leaves one.

    ``now`` is the time by ``time.monotonic()``, in seconds. No round trip. Which
    attributes ``connect()`` sets was read in Django 4.2 to 6.1.
    """
    state = wrapper.__dict__
    state.update(recorded.attributes)
    if recorded.containers:
        state.update((name, each.copy()) for name, each in recorded.containers.items())
    wrapper.connection = connection
    wrapper.savepoint_ids = []
    wrapper.atomic_blocks = []
    wrapper.run_on_commit = []
    max_age = wrapper.settings_dict["CONN_MAX_AGE"]
    wrapper.close_at = None if max_age is None else now + max_age
    if recorded.execute_wrappers or _EXECUTE_WRAPPERS in state:
        _apply_execute_wrappers(wrapper, recorded.execute_wrappers)


def _apply_execute_wrappers(wrapper: Any, recorded: list[Any]) -> None:
    """Replace the last connection's execute_wrappers by those of this connection.

    They go to the front of the list: ``with connection.execute_wrapper(...)`` removes
    the last element when its block ends.
    """
    state = vars(wrapper)
    last, present = state.get(_EXECUTE_WRAPPERS, []), wrapper.execute_wrappers
    present[:] = [one for one in present if not any(one is other for other in last)]
    state[_EXECUTE_WRAPPERS] = [one for one in recorded if one not in present]
    present[:0] = state[_EXECUTE_WRAPPERS]
