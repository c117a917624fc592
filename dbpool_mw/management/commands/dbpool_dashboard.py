"""Print a link that opens the page of the pools without a session or a database."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.urls import NoReverseMatch, URLResolver, get_resolver, reverse

from dbpool_mw.control.render import duration
from dbpool_mw.dashboard import access
from dbpool_mw.management.base import USAGE, positive_seconds, write

#: The name of the link's route by the app whose URLs have it, the preferred one first.
_ROUTES = {"dbpool_mw": "dashboard_link", "admin": "dbpool_mw_dashboard_link"}
_MAX_SECONDS = 86400


class Command(BaseCommand):
    """Print a signed link that can be opened for a while."""

    # No checks, so that the command runs while the database is down.
    requires_system_checks = []  # noqa: RUF012  Django documents a list here
    help = """\
Print a link that opens the page of the pools. It needs no session and no database, so
it works while every connection is in use and while PostgreSQL is stopped.

The link is signed with SECRET_KEY. Whoever has it can see the pools, and who holds
their connections, for a quarter of an hour (--valid); nobody can do anything by it. A
page that it has opened goes on for 4 hours."""

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the options."""
        parser.add_argument(
            "origin",
            nargs="?",
            type=_origin,
            help="Where the site is, such as https://shop.example (default: print the "
            "path alone).",
        )
        parser.add_argument(
            "--valid",
            type=_seconds,
            default=access.LINK_SECONDS,
            metavar="SECONDS",
            help=f"How long it can be opened (default: {access.LINK_SECONDS}).",
        )
        parser.add_argument(
            "--without-holders",
            action="store_true",
            help="Show no requests: neither who holds a connection nor who waits.",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Print the link, and on stderr what it is good for."""
        token = access.link_token(
            options["valid"], holders=not options["without_holders"]
        )
        if not write(self.stdout, (options["origin"] or "") + _path(token)):
            return
        valid = duration(options["valid"])
        write(self.stderr, f"It can be opened for {valid}, by whoever has it.")


def _path(token: str) -> str:
    """Return the link's path; raise CommandError (USAGE) where no page has a URL."""
    found = list(_namespaces(get_resolver()))
    names = [
        f"{namespace}:{route}"
        for wanted, route in _ROUTES.items()
        for app, namespace in found
        if app == wanted
    ]
    for name in names:
        try:
            return reverse(name, args=[token])
        except NoReverseMatch:
            continue  # another AdminSite, or below a prefix with arguments
    raise CommandError(
        "The page has no URL in this project. Put "
        'path("dbpool/", include("dbpool_mw.urls")) into ROOT_URLCONF, or use '
        "Django's admin.",
        returncode=USAGE,
    )


def _namespaces(
    resolver: URLResolver, above: str = ""
) -> Iterator[tuple[str | None, str]]:
    """Yield each namespace of the project with its app's name, nested ones too."""
    for namespace, (_, inner) in resolver.namespace_dict.items():
        yield inner.app_name, f"{above}{namespace}"
        yield from _namespaces(inner, f"{above}{namespace}:")


def _origin(text: str) -> str:
    """Parse the address of the site: a scheme and a host, and perhaps a port."""
    parts = urlsplit(text)
    is_web = parts.scheme in ("http", "https") and parts.netloc
    if not is_web or parts.path.strip("/"):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not an address such as https://shop.example"
        )
    return f"{parts.scheme}://{parts.netloc}"


def _seconds(text: str) -> float:
    """Parse the seconds of --valid."""
    seconds = positive_seconds(text)
    if seconds > _MAX_SECONDS:
        raise argparse.ArgumentTypeError(f"at most {_MAX_SECONDS} s, a day")
    return seconds
