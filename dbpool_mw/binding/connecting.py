"""Open and reset connections the way the ENGINE and the project do it.

Django's own ``connect()`` and ``init_connection_state()`` run on a temporary wrapper,
with everything that an ENGINE adds to them and with the receivers of
``connection_created``. What they assign to the temporary wrapper is recorded, for the
wrappers that will use the connection: see ``recording``.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

from django.db import Error, connections
from django.db.backends.signals import connection_created
from django.db.utils import load_backend

from dbpool_mw.binding import recording
from dbpool_mw.binding.parameters import Parameters, as_settings
from dbpool_mw.core.entry import PoolEntry
from dbpool_mw.core.errors import ConnectFailed, ResetFailed
from dbpool_mw.drivers import Driver


def open_connection(
    driver: Driver,
    alias: str,
    parameters: Parameters,
    wrapper: Any,
    entry: PoolEntry,
    on_failover: Callable[[str], None],
) -> None:
    """Open an entry's connection, for a wrapper that checks it out or a refill (None).

    Sets ``entry.connection`` as soon as there is one, so that a set-up that gets no
    answer can be ended, and at the end ``entry.recorded``. libpq gets the time until
    ``entry.deadline`` to connect. ``on_failover`` is for the driver's function of that
    name. Raises ConnectFailed when the server can't be reached or refuses, and whatever
    the ENGINE and the receivers of ``connection_created`` raise; the connection is
    closed then.
    """
    with _temporary_wrapper(alias, parameters, wrapper) as temporary:
        engine: Any = type(temporary)
        recorder = recording.record(temporary)

        def get_connection_params() -> dict[str, Any]:
            params = engine.get_connection_params(temporary)
            return driver.connection_params(params, entry.deadline - time.monotonic())

        def get_new_connection(params: dict[str, Any]) -> Any:
            entry.connection = engine.get_new_connection(temporary, params)
            driver.track(entry.connection)
            entry.socket_number = driver.socket_number(entry.connection)
            return entry.connection

        vars(temporary)["get_connection_params"] = get_connection_params
        vars(temporary)["get_new_connection"] = get_new_connection
        try:
            engine.connect(temporary)
            connection = entry.connection = temporary.connection
            if not driver.track(connection):
                raise ConnectFailed(
                    alias,
                    f"pool {alias!r}: can't connect to the database",
                    f"connect() of {engine.__module__} made a connection that can't be "
                    "pooled: it must come from get_new_connection(), and with the "
                    "connection_factory that get_connection_params() gave it",
                )
            driver.pin(connection)
            driver.keep_set_up(connection)
            driver.on_failover(connection, on_failover)
            entry.recorded = recorder.result(temporary)
        except BaseException as error:
            if temporary.connection is not None:
                driver.close(temporary.connection)
            driver.end_attempt(error)
            if not isinstance(error, driver.OperationalError):
                raise
            raise ConnectFailed(
                alias,
                f"pool {alias!r}: can't connect to the database",
                str(error),
            ) from error
        finally:
            temporary.connection = None


def reset_session(
    driver: Driver, alias: str, parameters: Parameters, wrapper: Any, entry: PoolEntry
) -> None:
    """Make the session of an entry's connection like one that was just opened.

    The server resets the session; then Django and the receivers of
    ``connection_created`` set it up again, and it is recorded anew. Sets
    ``entry.initial`` and ``entry.recorded``. ``wrapper`` is that of the last holder, or
    None. Raises ResetFailed when the database does not let that be done, and whatever
    else the ENGINE and the receivers raise.
    """
    try:
        _reset_session(driver, alias, parameters, wrapper, entry)
    except (driver.Error, Error) as error:
        raise ResetFailed(f"can't reset a session of {alias!r}") from error


def _reset_session(
    driver: Driver, alias: str, parameters: Parameters, wrapper: Any, entry: PoolEntry
) -> None:
    connection = entry.connection
    driver.forget_session(connection, entry.initial)
    with _temporary_wrapper(alias, parameters, wrapper) as temporary:
        recording.apply(temporary, connection, entry.recorded, time.monotonic())
        recorder = recording.record(temporary)
        try:
            temporary.init_connection_state()
            connection_created.send(sender=temporary.__class__, connection=temporary)
            entry.recorded = recorder.result(temporary, entry.recorded)
        finally:
            temporary.connection = None
    driver.keep_set_up(connection)
    # Receivers may have registered type casters, which are other objects each time.
    entry.initial = driver.session_attributes(connection)


@contextlib.contextmanager
def _temporary_wrapper(
    alias: str, parameters: Parameters, wrapper: Any
) -> Iterator[Any]:
    """Make a wrapper, and have ``connections[alias]`` return it during the block.

    Only in this thread. A receiver of ``connection_created`` that queries the alias
    uses the connection that is being opened. The temporary wrapper has settings of its
    own, because an ENGINE may write into them: the parameters, and what else the
    wrapper's have. Connections of other aliases that receivers opened are closed at the
    end: the thread may be one that serves no request, and closes nothing later.
    """
    before = list(connections.all(initialized_only=True))
    connected = [other for other in before if other.connection is not None]
    settings = {
        **connections.settings.get(alias, {}),
        **({} if wrapper is None else wrapper.settings_dict),
        **as_settings(parameters),
    }
    # What connections.create_connection() does, even if the alias is gone meanwhile.
    backend: Any = load_backend(settings["ENGINE"])
    temporary = backend.DatabaseWrapper(settings, alias)
    opened: list[Any] = []
    try:
        connections[alias] = temporary
        yield temporary
    finally:
        try:
            opened += _connected_besides(connected)
        finally:
            # Twice, because an exception may come before the first or in its middle.
            try:
                _put_back(alias, before)
            finally:
                _put_back(alias, before)
        for other in opened:
            if other is not temporary:
                other.close()


def _connected_besides(connected: list[Any]) -> list[Any]:
    """Return this thread's other wrappers that have a connection.

    A function, because no ``finally`` runs for an exception of a signal that comes at
    the jump to the next round of a comprehension with a condition: from 3.12 on Python
    inlines it, and leaves that jump out of the table of the function's handlers.
    """
    return [
        other
        for other in connections.all(initialized_only=True)
        if other.connection is not None and other not in connected
    ]


def _put_back(alias: str, before: list[Any]) -> None:
    """Have ``connections`` return the wrappers that it returned ``before``."""
    for other in before:
        connections[other.alias] = other
    if all(other.alias != alias for other in before):
        with contextlib.suppress(AttributeError):  # there is none any more
            del connections[alias]
