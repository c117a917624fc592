"""A model without a table: the page of the pools has permissions of its own."""

from __future__ import annotations

from django.db import models


class Dashboard(models.Model):
    """What the permissions for the page of the pools, and its entries in logs, name.

    There is no table, and no row. The name of the table is given, and the key is a
    text, because for others Django would load the database's library, whose absence a
    check of this app reports.
    """

    id: models.CharField[str, str] = models.CharField(primary_key=True, max_length=1)

    class Meta:
        """No table; the permissions are those that the page asks for."""

        managed = False
        db_table = "dbpool_mw_dashboard"
        default_permissions = ()
        verbose_name = verbose_name_plural = "database pools"
        permissions = (
            ("view_pools", "Can see the database pools"),
            ("view_holders", "Can see who holds the pools' connections"),
            ("drain_pools", "Can drain, recycle, pause and resume the pools"),
            ("cancel_holder", "Can cancel what holds a connection"),
        )
