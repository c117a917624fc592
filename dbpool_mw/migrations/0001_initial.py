"""Name the permissions of the page. No table is made."""

from __future__ import annotations

from django.db import migrations, models


class Migration(migrations.Migration):
    initial = True
    dependencies = []  # noqa: RUF012  Django documents a list here
    operations = [  # noqa: RUF012
        migrations.CreateModel(
            name="Dashboard",
            fields=[("id", models.CharField(max_length=1, primary_key=True))],
            options={
                "verbose_name": "database pools",
                "verbose_name_plural": "database pools",
                "db_table": "dbpool_mw_dashboard",
                "permissions": (
                    ("view_pools", "Can see the database pools"),
                    ("view_holders", "Can see who holds the pools' connections"),
                    ("drain_pools", "Can drain, recycle, pause and resume the pools"),
                    ("cancel_holder", "Can cancel what holds a connection"),
                ),
                "managed": False,
                "base_manager_name": "objects",
                "default_permissions": (),
            },
        ),
    ]
