"""An ENGINE that records facts about its session on the wrapper.

It connects with a new token each time, as ENGINEs for IAM authentication do. It resets
what it recorded wherever an ENGINE can: in the methods that connect, set the session up
and close.
"""

from __future__ import annotations

import itertools
from typing import Any

from django.db.backends.postgresql import base
from django.db.backends.utils import CursorWrapper

_tokens = itertools.count(1)


class Cursor(CursorWrapper):
    def _execute(self, sql: str, params: Any, *ignored: Any) -> Any:
        self.db.asked = True
        return super()._execute(sql, params, *ignored)


class DatabaseWrapper(base.DatabaseWrapper):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # Facts about the session, each set in another method; ``customer`` is the
        # application's.
        self.token: str | None = None
        self.nonce: str | None = None
        self.said: str | None = None
        self.heard: str | None = None
        self.asked = False
        self.prepared: set[str] = set()
        self.customer: str | None = None
        super().__init__(*args, **kwargs)

    def get_connection_params(self) -> dict[str, Any]:
        # An ENGINE for IAM would pass it as the password.
        self.token = f"token {next(_tokens)}"
        return {**super().get_connection_params(), "application_name": self.token}

    def get_new_connection(self, conn_params: dict[str, Any]) -> Any:
        self.said = None
        self.prepared = set()
        return super().get_new_connection(conn_params)

    def init_connection_state(self) -> None:
        super().init_connection_state()
        self.nonce = f"nonce {next(_tokens)}"
        with self.connection.cursor() as cursor:
            cursor.execute("SELECT set_config('app.nonce', %s, false)", [self.nonce])

    def make_cursor(self, cursor: Any) -> Any:
        return Cursor(cursor, self)

    def close(self) -> None:
        self.asked = False
        super().close()

    def _close(self) -> None:
        self.heard = None
        super()._close()
