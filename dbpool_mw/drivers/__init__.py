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


def can_import(*libraries: str) -> bool:
    """Tell whether any of these database libraries can be imported.

    Without an argument: any that has a driver.
    """
    for library in libraries or _LIBRARIES:
        # It may be there, and lack the C library that it loads.
        with contextlib.suppress(ImportError):
            import_module(library)
            return True
    return False


class Advice(NamedTuple):
    """What is wrong with a project's database library, and what to do about it."""

    problem: str
    hint: str


_INSTALL = 'pip install "django-dbpool-mw[binary]"'

#: For a project without a database library.
NOT_INSTALLED = Advice(
    "psycopg2 can't be imported, and dbpool_mw pools its connections.",
    f"Run: {_INSTALL}. The extra [psycopg2] compiles it on this machine instead.",
)

#: For a project whose database library has no driver.
NOT_SUPPORTED = Advice(
    "dbpool_mw pools psycopg2 connections, and Django runs on psycopg 3.",
    "Django prefers psycopg 3 if it is installed. Run: pip uninstall psycopg && "
    f"{_INSTALL}.",
)

#: The database libraries that Django's own PostgreSQL ENGINEs can run on.
OF_DJANGO = ("psycopg", "psycopg2")
