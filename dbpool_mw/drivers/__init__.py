"""Drivers: what is done to one physical connection. They import no pool, no Django.

``Driver`` is what a driver has; ``find`` gives the driver for a database library. A
driver stands in a folder of its own, which alone imports its library.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from functools import cache
from importlib import import_module
from typing import Any, NamedTuple, Protocol

from dbpool_mw.core import driver

#: The database libraries that have a driver.
_LIBRARIES = ("psycopg", "psycopg2")


class Driver(driver.Driver, Protocol):
    """What the pool asks of a driver, and what opening and resetting need of it."""

    @property
    def OperationalError(self) -> type[Exception]:
        """What the library raises when it can't connect."""

    def connection_params(
        self, params: Mapping[str, Any], seconds: float
    ) -> dict[str, Any]:
        """Return an ENGINE's parameters as those of a connection for the pool.

        ``seconds`` is how long connecting may take, unless the parameters say. Raises
        TypeError for parameters that a pooled connection can't be made with.
        """

    def track(self, connection: Any) -> bool:
        """Have a connection remember what is done to its session; tell whether it does.

        It may not if it was made without ``connection_params``. Called by the thread
        that opened it, before anything else is done with it.
        """

    def end_attempt(self, error: BaseException) -> None:
        """Close what an attempt to connect left open that ended with an error.

        Whoever keeps the error keeps what its traceback refers to.
        """

    def pin(self, connection: Any) -> None:
        """Set what the library and Django rely on, so that no reload changes it.

        Learns as well whether the server sets sessions up at their login by itself.
        """

    def keep_set_up(self, connection: Any) -> None:
        """Take a session as it was just set up for a clean one."""

    def on_failover(self, connection: Any, call: Callable[[str], None]) -> None:
        """Have a function called when the server hands over to another one.

        That is when the server, which takes writes now, takes none any more, or when it
        shuts down. ``call`` gets the reason as text. It may be called at each failed
        statement, in the holder's thread, and in any thread of the pool's.
        """

    def forget_session(self, connection: Any, initial: Any) -> None:
        """Undo everything that was set in a session, the initial set-up included.

        Raises the library's errors, also for what can't be undone, and
        ``core.errors.ResetRefused`` where the server knows no such statements, or sets
        sessions up at their login by itself.
        """


@cache
def find(library: str) -> Driver | None:
    """Return the driver for a database library, None if there is none.

    ``library`` is the name of the module that an ENGINE has as its ``Database``. Raises
    ImportError if the library can't be imported.
    """
    if library == "psycopg":
        from .psycopg import driver as psycopg_driver

        return psycopg_driver
    if library == "psycopg2":
        from .psycopg2 import driver as psycopg2_driver

        return psycopg2_driver
    return None


def can_import() -> bool:
    """Tell whether any database library that has a driver can be imported."""
    for library in _LIBRARIES:
        # It may be there, and lack the C library that it loads.
        with contextlib.suppress(ImportError):
            import_module(library)
            return True
    return False


class Advice(NamedTuple):
    """What is wrong with a project's database library, and what to do about it."""

    problem: str
    hint: str


#: For a project without a database library.
NOT_INSTALLED = Advice(
    "Neither psycopg nor psycopg2 can be imported, and dbpool_mw pools connections of "
    "theirs.",
    'Run: pip install "django-dbpool-mw[psycopg-binary]". The extra [psycopg] uses the '
    "libpq of this machine instead; [binary] and [psycopg2] are for psycopg2.",
)


def not_supported(alias: str, library: str, of_django: str | None) -> Advice | None:
    """Return what is wrong with the database library of an alias, None if nothing is.

    ``of_django`` is the one that Django's own ENGINEs run on in this process.
    """
    if library not in _LIBRARIES:
        return Advice(
            "dbpool_mw pools connections of psycopg and psycopg2, and the ENGINE of "
            f"{alias!r} uses {library}.",
            "Write an ENGINE that uses one of the two.",
        )
    if of_django not in (None, library):
        return Advice(
            f"The ENGINE of {alias!r} uses {library}, and Django runs on {of_django} "
            "in this process: it takes psycopg 3 for all aliases where psycopg 3 is "
            "installed.",
            f"Write an ENGINE that uses {of_django}, or run: pip uninstall "
            f"{of_django}.",
        )
    return None
