"""Who may see and do what on the page, and how it knows without a database."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, NamedTuple

from django.conf import settings
from django.core import signing
from django.db import Error as DatabaseError
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.template.loader import render_to_string
from django.views.decorators.cache import never_cache

from dbpool_mw.dashboard.turn import Busy, Turn, outside_in_turn
from dbpool_mw.decorators import no_pool

#: Seconds that a link of ``dbpool_dashboard`` can be opened, unless it says otherwise.
LINK_SECONDS = 900
#: Seconds from one poll of an open page to the next at most, and from its opening on.
POLL_SECONDS = 120
OPEN_SECONDS = 4 * 3600

_LINK = "dbpool_mw.dashboard.link"
_OPENED = "dbpool_mw.dashboard.opened"
_POLL = "dbpool_mw.dashboard.poll"


class Access(NamedTuple):
    """What somebody may see and do: holders, drain and pause, cancel."""

    holders: bool = False
    drain: bool = False
    cancel: bool = False


class Refused(Exception):
    """A link or a poll is refused; the text says why, and what to do."""


def of_user(user: Any) -> Access | None:
    """Return what a user may see and do, None if not even the pools.

    Asks the database.
    """
    if not user.has_perm("dbpool_mw.view_pools"):
        return None
    names = ("view_holders", "drain_pools", "cancel_holder")
    return Access(*(user.has_perm(f"dbpool_mw.{name}") for name in names))


# --- Signed, so that no session and no user has to be read ----------------------------


def link_token(seconds: float = LINK_SECONDS, *, holders: bool = True) -> str:
    """Return the token of a link to the page, which can be opened for ``seconds``."""
    signed = signing.TimestampSigner(salt=_LINK)
    return signed.sign_object({"holders": holders, "seconds": seconds})


def of_link(token: str) -> Access:
    """Return what a link lets see; raise Refused for one that is wrong or too old."""
    signer = signing.TimestampSigner(salt=_LINK)
    try:
        seconds = signer.unsign_object(token)["seconds"]
        holders = signer.unsign_object(token, max_age=seconds)["holders"]
    except signing.SignatureExpired as error:
        raise Refused(
            "This link is too old. manage.py dbpool_dashboard prints another one."
        ) from error
    except (signing.BadSignature, ValueError) as error:
        raise Refused(
            "This link isn't whole, or was made with another SECRET_KEY. "
            "manage.py dbpool_dashboard prints another one."
        ) from error
    return Access(holders=holders)


def poll_token(access: Access, known: Sequence[Any] = ()) -> str:
    """Return the first token for the polls of a page that is being opened.

    ``known`` is plain data that each poll gets back.
    """
    signer = signing.TimestampSigner(salt=_OPENED)
    opened = signer.sign_object([list(access), list(known)])
    return signing.TimestampSigner(salt=_POLL).sign(opened)


def of_poll(token: str) -> tuple[Access, list[Any], str]:
    """Return what a page may show, what it has kept, and the token of its next poll.

    Raises Refused for a token that is wrong, or too old, or of a page that has been
    open too long: nobody has asked since whether its user may still see it.
    """
    signer = signing.TimestampSigner(salt=_POLL)
    try:
        opened = signer.unsign(token, max_age=POLL_SECONDS)
        access, known = signing.TimestampSigner(salt=_OPENED).unsign_object(
            opened, max_age=OPEN_SECONDS
        )
    except signing.SignatureExpired as error:
        raise Refused(
            "This page has been open, or asleep, for too long. Load it again."
        ) from error
    except (signing.BadSignature, ValueError) as error:
        raise Refused("This page isn't known here any more. Load it again.") from error
    return Access(*access), known, signer.sign(opened)


# --- Views that need no database, or no pool ------------------------------------------


class _EveryAlias:
    """What Django looks an alias up in before it begins a transaction for a view."""

    def __contains__(self, alias: object) -> bool:
        return True


def from_memory(view: Callable[..., HttpResponseBase]) -> Callable[..., Any]:
    """Serve a view without any connection, session or user, whatever the settings say.

    No place of a pool, no transaction of ``ATOMIC_REQUESTS``, no login of
    ``LoginRequiredMiddleware``, no ``SESSION_SAVE_EVERY_REQUEST``.
    """

    @wraps(view)
    def wrapped(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        _forget_session(request)
        return view(request, *args, **kwargs)

    return _marked(wrapped)


def _forget_session(request: HttpRequest) -> None:
    """Have the session's middleware neither save the session nor end it."""
    session: Any = getattr(request, "session", None)
    if session is not None:
        request.session = type(session)()
        request.COOKIES.pop(settings.SESSION_COOKIE_NAME, None)


def outside(view: Callable[..., HttpResponseBase]) -> Callable[..., Any]:
    """Serve a view that asks the database, on a connection outside of the pools.

    So the page opens, and acts, while every place is held or the pool is paused. One
    request of a process at a time, so that nobody can open many connections. Where the
    database can't be asked the answer is a 503 that says what can be done.
    """

    @wraps(view)
    def wrapped(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        try:
            with outside_in_turn() as turn:
                request._dbpool_mw_turn = turn  # type: ignore[attr-defined]
                response = view(request, *args, **kwargs)
            _save_outside(request)
            return response
        except Busy as busy:
            return _unavailable(request, str(busy))
        except DatabaseError:
            text = "The database can't be asked who you are, and what you may see."
            return _unavailable(request, text)

    return _marked(wrapped)


def is_known(request: HttpRequest) -> None:
    """Close what asked who the user is, and let the next request ask.

    For before the workers are asked: a silent one is waited for. What queries later
    connects anew.
    """
    turn: Turn = request._dbpool_mw_turn  # type: ignore[attr-defined]
    turn.end()


def _save_outside(request: HttpRequest) -> None:
    """Have the session's middleware save the session outside of the pools too.

    It does so after the view: with ``SESSION_SAVE_EVERY_REQUEST`` each time.
    """
    session: Any = getattr(request, "session", None)
    if session is None:
        return
    save = session.save

    def saved(*args: Any, **kwargs: Any) -> Any:
        try:
            with outside_in_turn():
                return save(*args, **kwargs)
        except Busy:
            return save(*args, **kwargs)

    session.save = saved


def _marked(view: Callable[..., Any]) -> Callable[..., Any]:
    marked: Any = no_pool(never_cache(view))
    marked._non_atomic_requests = _EveryAlias()
    marked.login_required = False
    return marked  # type: ignore[no-any-return]


def _unavailable(request: HttpRequest, reason: str) -> HttpResponse:
    response = message(request, 503, "Not available now", reason)
    response.headers["Retry-After"] = "5"
    return response


def message(request: HttpRequest, status: int, title: str, text: str) -> HttpResponse:
    """Return a small page with a text, which asks nothing of any database."""
    context = {"title": title, "text": text, "nonce": nonce(request)}
    # Without the request no context processor runs: one may read the user.
    page = render_to_string("dbpool_mw/dashboard/message.html", context)
    return HttpResponse(page, status=status)


def nonce(request: HttpRequest) -> str:
    """Return the request's nonce of Django 6's, or django-csp's, policy; "" if none."""
    found: Any = getattr(request, "csp_nonce", None)
    if found is None:
        found = getattr(request, "_csp_nonce", None)
    return "" if found is None else str(found)
