"""A panel of dj-control-room: its hub lists the page of the pools.

The hub finds the class by an entry point, and needs no base class: nothing is imported
from there.
"""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest
from django.urls import NoReverseMatch, reverse

from dbpool_mw.core.docs import SITE


class PoolPanel:
    """Lead from the hub to the page, where the project includes ``dbpool_mw.urls``.

    The hub shows its panels to all staff; the page asks for its permission. Without the
    URLs the hub says what to write.
    """

    name = "Database pools"
    description = "Who holds which connection, who waits, and what the settings allow."
    icon = "database"
    icon_color = "accent"
    #: Of INSTALLED_APPS and of the URLs. The hub would take the distribution's name.
    app_name = "dbpool_mw"
    docs_url = f"{SITE}dashboard.html"

    def get_url_name(self) -> str:
        """Return the name of the page among the URLs."""
        return "dashboard"

    def get_config(self) -> _Config:
        """Return what the hub asks before it lists the panel in the admin too."""
        return _Config(f"{self.app_name}:{self.get_url_name()}")


class _Config:
    """What the hub wants to know of a panel."""

    #: What a panel offers to agents.
    tools: tuple[()] = ()

    def __init__(self, page: str) -> None:
        self._page = page

    def has_permission(self, request: HttpRequest, scope: str | None = None) -> bool:
        """Tell whether the entry in the admin leads to a page that the user may see."""
        user: Any = request.user
        try:
            reverse(self._page)
        except NoReverseMatch:
            return False
        return bool(user.has_perm("dbpool_mw.view_pools"))
