"""The shop's application configuration."""

from __future__ import annotations

from django.apps import AppConfig


class ShopConfig(AppConfig):
    """Name the shop's models ``shop.<model>``."""

    name = "sandbox.shop"
    label = "shop"
