"""The page in Django's admin: a model without a table, whose list is the page."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.http import HttpRequest
from django.urls import URLPattern

from dbpool_mw.dashboard.views import Pages
from dbpool_mw.models import Dashboard


class DashboardAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Show the page of the pools. Nothing can be added, changed or deleted."""

    def get_urls(self) -> list[URLPattern]:
        """Return the page's routes, and none of a model's."""
        name = f"{self.opts.app_label}_{self.opts.model_name}"
        return Pages(name, self.admin_site).urls(f"{name}_changelist")

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Tell whether a user may see the pools."""
        user: Any = request.user
        return bool(user.has_perm("dbpool_mw.view_pools"))

    def has_module_permission(self, request: HttpRequest) -> bool:
        """Tell whether the admin's list of applications shows the page."""
        return self.has_view_permission(request)

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Tell that nothing can be added."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Tell that nothing can be changed."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Tell that nothing can be deleted."""
        return False


def register(site: admin.AdminSite = admin.site) -> None:
    """Have an admin site show the page."""
    site.register(Dashboard, DashboardAdmin)
