"""The page's views: the page, its polls, the signed link, and the actions.

The same views serve the admin and the page on its own: they differ in their addresses,
their templates and in who lets a user in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from django.core.exceptions import ImproperlyConfigured, PermissionDenied
from django.http import (
    Http404,
    HttpRequest,
    HttpResponse,
    HttpResponseRedirect,
    JsonResponse,
)
from django.http.response import HttpResponseBase
from django.shortcuts import render
from django.template.loader import render_to_string
from django.urls import URLPattern, path, reverse
from django.views.decorators.csrf import csrf_protect

from dbpool_mw import conf
from dbpool_mw.binding.release import released
from dbpool_mw.control import orders, paths
from dbpool_mw.control.client import Answer
from dbpool_mw.control.survey import survey
from dbpool_mw.dashboard import access as may
from dbpool_mw.dashboard import actions, charts, limits, presentation
from dbpool_mw.dashboard.access import Access, from_memory, message, outside
from dbpool_mw.dashboard.actions import Mistake, Target
from dbpool_mw.dashboard.limits import Known

#: The request header that a poll has its token in.
TOKEN = "X-Dbpool-Token"
_TEMPLATES = "dbpool_mw/dashboard/"
_TITLE = "Database pools"


class Pages:
    """The views in one place: on their own, or in an admin site.

    ``site`` is None, or the AdminSite; the names of the URLs begin with ``name``.
    """

    def __init__(self, name: str, site: Any = None) -> None:
        self._name = name
        self._site = site

    def urls(self, index: str) -> list[URLPattern]:
        """Return the routes; the page itself is named ``index``."""
        name = self._name
        page, act = self._page, csrf_protect(self._act)
        if self._site is not None:
            page, act = self._site.admin_view(page), self._site.admin_view(act)
        return [
            path("", outside(page), name=index),
            path("poll/", from_memory(self._poll), name=f"{name}_poll"),
            path("link/<str:token>/", from_memory(self._link), name=f"{name}_link"),
            path("act/<str:verb>/", outside(act), name=f"{name}_act"),
        ]

    # --- The views --------------------------------------------------------------------

    def _page(self, request: HttpRequest) -> HttpResponseBase:
        """Show the page to a user with the permission."""
        refused, access = self._access(request)
        if refused is not None:
            return refused
        limits.remember()
        may.is_known(request)
        return self._show(request, access, is_link=False)

    def _link(self, request: HttpRequest, token: str) -> HttpResponse:
        """Show the page to whoever has a link of ``dbpool_dashboard``."""
        try:
            access = may.of_link(token)
        except may.Refused as refused:
            return message(request, 403, "This link can't be used", str(refused))
        response = self._show(request, access, is_link=True)
        response.headers["Referrer-Policy"] = "no-referrer"
        return response

    def _poll(self, request: HttpRequest) -> JsonResponse:
        """Return what has changed on an open page; asks no database."""
        try:
            access, kept, token = may.of_poll(request.headers.get(TOKEN, ""))
            opened_on, remembered = kept
        except may.Refused as refused:
            return JsonResponse({"error": str(refused)}, status=403)
        is_elsewhere = opened_on != actions.here()
        with_charts = "charts" in request.GET and not is_elsewhere
        known = [Known(*each) for each in remembered]
        context = self._survey(request, access, known, with_charts=with_charts)
        if is_elsewhere:
            text = (
                f"This is an answer of {actions.here()}, and the page was opened on "
                f"{opened_on}, whose charts stand here still: a balancer sends "
                "requests to several hosts."
            )
            context["notices"] = [("warning", text), *context["notices"]]
        names = ("live", "charts", "more") if with_charts else ("live", "more")
        parts = {
            name: render_to_string(f"{_TEMPLATES}{name}.html", context)
            for name in names
        }
        return JsonResponse({"token": token, "parts": parts})

    def _act(self, request: HttpRequest, verb: str) -> HttpResponseBase:
        """Ask for a confirmation, or do what was confirmed by POST."""
        refused, access = self._access(request)
        if refused is not None:
            return refused
        if verb not in presentation.VERBS:
            raise Http404(f"{verb!r} is no action")
        if not actions.allowed(access, verb):
            raise PermissionDenied
        may.is_known(request)
        mistake = ""
        try:
            given = request.POST if request.method == "POST" else request.GET
            target = actions.target_of(verb, given)
            if request.method == "POST":
                seconds = actions.seconds_of(verb, given)
                did = actions.act(_directory(), verb, target, seconds, request.user)
                query = urlencode({"did": did.token})
                return HttpResponseRedirect(f"{self._reverse(request)}?{query}")
        except Mistake as error:
            mistake = str(error)
            try:
                target = actions.target_of(verb, request.POST or request.GET)
            except Mistake:
                target = None
        return self._confirmation(request, access, verb, target, mistake)

    # --- What they share --------------------------------------------------------------

    def _access(self, request: HttpRequest) -> tuple[HttpResponseBase | None, Access]:
        """Return what the user may, or the response to one who may see nothing."""
        user: Any = getattr(request, "user", None)
        if user is None:
            text = (
                "This project knows no users here: AuthenticationMiddleware isn't in "
                "MIDDLEWARE. manage.py dbpool_dashboard prints a link."
            )
            return message(request, 403, "Nobody is logged in", text), Access()
        if not user.is_authenticated:
            # Not before: the routes are for projects without users too.
            from django.contrib.auth.views import redirect_to_login

            return redirect_to_login(request.get_full_path()), Access()
        access = may.of_user(user)
        if access is None:
            raise PermissionDenied
        return None, access

    def _reverse(self, request: HttpRequest, name: str = "", *args: str) -> str:
        match: Any = request.resolver_match
        index = "changelist" if self._site is not None else ""
        full = "_".join(filter(None, (self._name, name or index)))
        # Where this request came in: there may be several, one within another's URLs.
        return reverse(f"{match.namespace}:{full}", args=args)

    def _survey(
        self,
        request: HttpRequest,
        access: Access,
        known: Sequence[Known],
        *,
        with_charts: bool,
    ) -> dict[str, Any]:
        """Ask the workers; return what the parts of the page show."""
        # What asked who the user is needs its connection no more.
        with released():
            answers, problem = asked(access, with_charts=with_charts)

        def link(verb: str, **target: Any) -> str:
            query = urlencode(_fields(Target(**target)))
            return f"{self._reverse(request, 'act', verb)}?{query}"

        shown = presentation.page(answers, access, link)
        pools = presentation.by_alias(answers)
        return {
            "notices": [("error", problem)] if problem else shown.notices,
            "host": actions.here(),
            "progress": _progress(request, access, answers, problem),
            "tables": shown.first,
            "more": [*shown.more, limits.table(pools, len(answers), known)],
            "charts": charts.charts(answers) if with_charts else [],
            "charts_note": charts.note(answers),
            "width": charts.WIDTH,
            "height": charts.HEIGHT,
        }

    def _show(
        self, request: HttpRequest, access: Access, *, is_link: bool
    ) -> HttpResponse:
        query = request.META.get("QUERY_STRING", "")
        known = limits.remembered()
        context = {
            **self._survey(request, access, known, with_charts=True),
            "title": _TITLE,
            "access": access,
            "is_link": is_link,
            "token": may.poll_token(access, [actions.here(), known]),
            "poll_url": self._reverse(request, "poll") + (f"?{query}" if query else ""),
            "nonce": may.nonce(request),
        }
        if self._site is not None and not is_link:
            context = {**self._site.each_context(request), **context}
            return render(request, f"{_TEMPLATES}admin_page.html", context)
        # Without the request: no context processor runs, which may read the user.
        return HttpResponse(render_to_string(f"{_TEMPLATES}page.html", context))

    def _confirmation(
        self,
        request: HttpRequest,
        access: Access,
        verb: str,
        target: Target | None,
        mistake: str,
    ) -> HttpResponse:
        """Say what an action will do, with the button that does it."""
        with released():
            answers, problem = asked(Access(holders=True))
        tables: Sequence[presentation.Table] = ()
        if target is not None:
            if verb != "cancel" or access.holders:
                tables = _concerned(verb, target, answers)
            if verb == "cancel" and actions.hold_of(target, answers) is None:
                mistake = mistake or problem or actions.silence(target, answers)
                mistake = mistake or "This request has ended: nothing is cancelled."
                target = None
        name = presentation.VERBS[verb]
        context = {
            "title": name if target is None else f"{name}: {target.words}",
            "verb": name,
            "lines": actions.will_happen(verb, target) if target else [],
            "fields": _fields(target) if target else {},
            "target": target,
            "tables": tables,
            "has_seconds": verb in orders.KEPT,
            "seconds": request.POST.get(
                "seconds", str(actions.PAUSE_SECONDS) if verb == "pause" else ""
            ),
            "is_pause": verb == "pause",
            "longest": str(actions.MAX_SECONDS),
            "mistake": mistake or problem,
            "back": self._reverse(request),
            "nonce": may.nonce(request),
        }
        template = "confirm.html"
        if self._site is not None:
            context = {**self._site.each_context(request), **context}
            template = "admin_confirm.html"
        status = 400 if mistake else 200
        return render(request, f"{_TEMPLATES}{template}", context, status=status)


def asked(access: Access, *, with_charts: bool = False) -> tuple[list[Answer], str]:
    """Return the workers' answers, and why none can be asked, "" if they can."""
    try:
        directory = _directory()
        flags: dict[str, Any] = {"holders": access.holders, "settings": True}
        flags |= dict.fromkeys(("waiters", "routes"), access.holders)
        flags |= charts.ASKED if with_charts else {}
        return survey(directory, **flags), ""
    except (paths.ControlDirError, ImproperlyConfigured, Mistake) as error:
        return [], str(error)


def _directory() -> Path:
    """Return where the workers' sockets are; raise Mistake if there are none."""
    if conf.is_switched_off():
        raise Mistake("DBPOOL_MW_ENABLED is False, so there are no pools.")
    directory = conf.control_dir()
    if directory is None:
        raise Mistake("DBPOOL_MW_CONTROL_DIR is False: no worker can be asked.")
    return directory


def _concerned(
    verb: str, target: Target, answers: Sequence[Answer]
) -> list[presentation.Table]:
    """Return the table of what an action is for; of a hold that has ended, none."""
    found = actions.hold_of(target, answers)
    if found is not None:
        answer, hold = found
        answers = [replace(answer, reply={**(answer.reply or {}), "holders": [hold]})]
    elif verb == "cancel":
        return []
    else:
        answers = [
            answer.only(target.aliases)
            for answer in answers
            if target.pid in (None, answer.pid)
        ]
    shown = presentation.page(answers, Access(holders=True), lambda *_, **__: "")
    name = "holders" if verb == "cancel" else "pools"
    return [table for table in (*shown.first, *shown.more) if table.name == name]


def _fields(target: Target) -> dict[str, str]:
    return {k: str(v) for k, v in target._asdict().items() if v is not None}


def _progress(
    request: HttpRequest, access: Access, answers: Sequence[Answer], problem: str = ""
) -> tuple[str, list[str]] | None:
    """Return how far the action is that this page was opened after."""
    did = actions.did_of(request.GET.get("did", ""))
    if did is None or not actions.allowed(access, did.verb):
        return None
    return actions.progress(did, answers, problem, holders=access.holders)
