"""What Django's admin imports, if the project has it: the page of the pools."""

from __future__ import annotations

from django.apps import apps

from dbpool_mw import conf

if apps.is_installed("django.contrib.admin") and not conf.is_switched_off():
    from dbpool_mw.dashboard.admin import register

    register()
