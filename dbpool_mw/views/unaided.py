"""What the views of this package have in common: they need no database."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.db import connections, transaction

from dbpool_mw.decorators import no_pool


def unaided(view: Callable[..., Any]) -> Callable[..., Any]:
    """Have a view answered without a connection, whatever the project's settings.

    The middleware checks none out, ATOMIC_REQUESTS begins no transaction, and
    LoginRequiredMiddleware asks for no user.
    """
    view = no_pool(view)
    for alias in connections:
        view = transaction.non_atomic_requests(using=alias)(view)
    view.login_required = False  # type: ignore[attr-defined]
    return view
