"""A model without a table: the page of the pools has permissions of its own."""

from __future__ import annotations

from typing import Any

from django.core.checks import CheckMessage
from django.db import models


class _NoRows(models.Manager[Any]):
    """Finds nothing, and asks nothing: ``dumpdata`` reads every model there is."""

    def get_queryset(self) -> models.QuerySet[Any]:
        """Return no row."""
        return super().get_queryset().none()


class Dashboard(models.Model):
    """What the permissions for the page of the pools, and its entries in logs, name.

    There is no table, and no row. The name of the table is given, and the key is a
    text, because for others Django would load the database's library, whose absence a
    check of this app reports.
    """

    id: models.CharField[str, str] = models.CharField(primary_key=True, max_length=1)
    objects = _NoRows()

    class Meta:
        """No table; the permissions are those that the page asks for."""

        managed = False
        # What ``dumpdata --all`` reads.
        base_manager_name = "objects"
        db_table = "dbpool_mw_dashboard"
        default_permissions = ()
        verbose_name = verbose_name_plural = "database pools"
        permissions = (
            ("view_pools", "Can see the database pools"),
            ("view_holders", "Can see who holds the pools' connections"),
            ("drain_pools", "Can drain, recycle, pause and resume the pools"),
            ("cancel_holder", "Can cancel what holds a connection"),
        )

    @classmethod
    def check(cls, **options: Any) -> list[CheckMessage]:
        """Return nothing: without a table there is nothing to check.

        From Django 6.1 on the check of a field loads the database's library.
        """
        return []
