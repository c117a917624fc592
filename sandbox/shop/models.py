"""The shop's categories, products and reviews."""

# Only the plugin of django-stubs knows the types of a model's fields, and the plugin
# would have to import these settings.
# mypy: disable-error-code="var-annotated"

from __future__ import annotations

from django.db import models


class Category(models.Model):
    """A shelf of the shop."""

    slug = models.SlugField(unique=True)
    name = models.CharField(max_length=60)

    class Meta:
        ordering = ("name",)
        verbose_name_plural = "categories"

    def __str__(self) -> str:
        return str(self.name)


class Product(models.Model):
    """A thing on a shelf, with its price."""

    category = models.ForeignKey(
        Category, on_delete=models.CASCADE, related_name="products"
    )
    slug = models.SlugField(unique=True)
    name = models.CharField(max_length=80)
    price = models.DecimalField(max_digits=8, decimal_places=2)
    added = models.DateTimeField(db_index=True)

    class Meta:
        ordering = ("-added", "-pk")

    def __str__(self) -> str:
        return str(self.name)


class Review(models.Model):
    """One buyer's review of a product, in stars and words."""

    product = models.ForeignKey(
        Product, on_delete=models.CASCADE, related_name="reviews"
    )
    author = models.CharField(max_length=40)
    stars = models.PositiveSmallIntegerField()
    text = models.TextField(blank=True)

    class Meta:
        ordering = ("-pk",)
        constraints = (
            models.UniqueConstraint(
                fields=("product", "author"), name="one_review_of_a_product_per_author"
            ),
        )

    def __str__(self) -> str:
        return f"{self.author} on {self.product}"
