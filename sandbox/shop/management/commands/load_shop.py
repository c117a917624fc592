"""``manage.py load_shop``: fill the shop with the same few hundred rows each time."""

from __future__ import annotations

import random
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

from django.core.management.base import BaseCommand
from django.db import transaction
from django.utils.text import slugify

from sandbox.shop.models import Category, Product, Review

SHELVES = ("Books", "Garden", "Kitchen", "Lamps", "Music", "Paper", "Tools", "Toys")
ADJECTIVES = ("Blue", "Small", "Old", "Folding", "Quiet", "Striped")
NOUNS = ("Box", "Chair", "Kettle", "Drum")
AUTHORS = ("ada", "grace", "edgar", "barbara", "michael", "tony")
WORDS = ("does what it says", "smaller than the picture", "a present, well liked")
OPENED = datetime(2024, 1, 1, 9, 0, tzinfo=timezone.utc)


class Command(BaseCommand):
    """Write every row under its natural key, so that a second run changes nothing."""

    help = "Fill the shop with the same few hundred rows, however often it is run."

    def handle(self, *args: Any, **options: Any) -> None:
        """Load the three tables in one transaction and say what they hold."""
        dice = random.Random(2024)
        with transaction.atomic():
            shelves = self._categories()
            products = self._products(shelves, dice)
            self._reviews(products, dice)
        self.stdout.write(
            f"The shop has {Category.objects.count()} categories, "
            f"{Product.objects.count()} products and {Review.objects.count()} reviews."
        )

    def _categories(self) -> list[Category]:
        Category.objects.bulk_create(
            [Category(slug=slugify(name), name=name) for name in SHELVES],
            update_conflicts=True,
            unique_fields=["slug"],
            update_fields=["name"],
        )
        return list(Category.objects.filter(name__in=SHELVES).order_by("slug"))

    def _products(self, shelves: list[Category], dice: random.Random) -> list[Product]:
        rows = []
        for shelf in shelves:
            for adjective in ADJECTIVES:
                for noun in NOUNS:
                    rows.append(
                        Product(
                            category=shelf,
                            slug=slugify(f"{shelf.slug} {adjective} {noun}"),
                            name=f"{adjective} {noun} ({shelf.name})",
                            price=Decimal(dice.randrange(200, 20_000)) / 100,
                            added=OPENED + timedelta(hours=dice.randrange(8_000)),
                        )
                    )
        Product.objects.bulk_create(
            rows,
            update_conflicts=True,
            unique_fields=["slug"],
            update_fields=["category", "name", "price", "added"],
        )
        slugs = [row.slug for row in rows]
        return list(Product.objects.filter(slug__in=slugs).order_by("slug"))

    def _reviews(self, products: list[Product], dice: random.Random) -> None:
        rows = [
            Review(
                product=product,
                author=author,
                stars=dice.randint(1, 5),
                text=dice.choice(WORDS),
            )
            for product in products
            for author in dice.sample(AUTHORS, 2)
        ]
        Review.objects.bulk_create(
            rows,
            update_conflicts=True,
            unique_fields=["product", "author"],
            update_fields=["stars", "text"],
        )
