"""Django's ENGINE for PostGIS, pooled."""

from __future__ import annotations

from django.contrib.gis.db.backends.postgis import base

from dbpool_mw.backends.mixin import PooledMixin


class DatabaseWrapper(PooledMixin, base.DatabaseWrapper):
    """A wrapper that checks its connections out of a pool; see ``PooledMixin``."""
