"""The app, which may use the database when it is loaded."""

from django.apps import AppConfig

from tests.django.users import early


class ShelfConfig(AppConfig):
    """An app with one model."""

    name = "tests.django.users.shelf"

    def ready(self):
        early.query("ready")
