"""One model."""

from django.db import models


class Book(models.Model):
    """A book."""

    title = models.CharField(max_length=100)

    class Meta:
        app_label = "shelf"
