"""Views that need no database."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import lru_cache, partial, wraps
from inspect import iscoroutinefunction
from typing import Any

from django.conf import settings
from django.conf.urls.i18n import is_language_prefix_patterns_used
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest
from django.middleware.locale import LocaleMiddleware
from django.urls import Resolver404, get_resolver, resolve
from django.urls.resolvers import LocalePrefixPattern
from django.utils import translation
from django.utils.module_loading import import_string
from django.views import View

#: The attribute of decorated views; Django's ``as_view()`` copies it from ``dispatch``.
_NO_POOL = "dbpool_mw_no_pool"

#: Whether a view was decorated in this process so far.
used = False

#: What was found out of paths that lead to the same view in every language. Bounded:
#: anybody can ask for any path.
_known: dict[str, bool] = {}
_KNOWN = 512


def no_pool(view: Callable[..., Any]) -> Callable[..., Any]:
    """Serve a view, sync or async, without checking a connection out for it.

    The view then works while the pool is exhausted or the database is down. A query in
    the view still works: it checks a connection out. For a class-based view, decorate
    what ``as_view()`` returns, or ``dispatch`` with ``method_decorator``; for instances
    that are views, such as Django's feeds, their class's ``__call__()``. A decorated
    ``get()`` raises ImproperlyConfigured: the connection was checked out before it.
    """
    global used
    used = True

    if iscoroutinefunction(view):

        @wraps(view)
        async def wrapped(*args: Any, **kwargs: Any) -> Any:
            _refuse_method(view, args)
            return await view(*args, **kwargs)

    else:

        @wraps(view)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            _refuse_method(view, args)
            return view(*args, **kwargs)

    setattr(wrapped, _NO_POOL, True)
    return wrapped


def _refuse_method(view: Callable[..., Any], args: tuple[Any, ...]) -> None:
    """Raise ImproperlyConfigured for a method of a view other than ``dispatch``.

    ``args`` are those of the call. ``method_decorator`` has a partial of the bound
    method decorated, in each call.
    """
    if isinstance(view, partial):
        instance = getattr(view.func, "__self__", None)
    else:
        instance = next(iter(args), None)
    name = getattr(view, "__name__", "dispatch")
    if isinstance(instance, View) and name != "dispatch":
        raise ImproperlyConfigured(
            f"no_pool has no effect on {type(instance).__name__}.{name}(): the "
            "connection was checked out before. Decorate the class instead: "
            '@method_decorator(no_pool, name="dispatch")'
        )


def needs_no_pool(request: HttpRequest) -> bool:
    """Tell whether a request leads to a view decorated with ``no_pool``.

    The URL configuration is that of ``request.urlconf``, where middleware that stands
    before the pool's has set it. What a path leads to is remembered, because resolving
    it costs more than everything else at the start of a request.
    """
    path = request.path_info
    if "urlconf" in request.__dict__:
        return _look_up(path, request)
    found = _known.get(path)
    if found is None:
        found = _look_up(path, request)
        if not _is_translated(None):
            if len(_known) >= _KNOWN:
                _known.clear()
            _known[path] = found
    return found


def forget_urls() -> None:
    """Forget where paths lead; to be called when ROOT_URLCONF has changed."""
    _is_translated.cache_clear()
    _leads_to_no_pool.cache_clear()
    _known.clear()


def _look_up(path: str, request: HttpRequest) -> bool:
    urlconf = getattr(request, "urlconf", None)
    language = _language(request, urlconf) if _is_translated(urlconf) else None
    return _leads_to_no_pool(path, urlconf, language)


@lru_cache(maxsize=512)
def _leads_to_no_pool(path: str, urlconf: Any, language: str | None) -> bool:
    """Resolve a path, in a language if it is given."""
    try:
        with nullcontext() if language is None else translation.override(language):
            match: Any = resolve(path, urlconf)
    except Resolver404:
        return False
    view = match.func
    while isinstance(view, partial):
        view = view.func
    # The view may be an instance, with a decorated __call__().
    called = getattr(type(view), "__call__", None)  # noqa: B004
    return any(getattr(one, _NO_POOL, False) for one in (view, called))


@lru_cache(maxsize=64)
def _is_translated(urlconf: Any) -> bool:
    """Tell whether it depends on the language where a path leads."""

    def depends(pattern: Any) -> bool:
        if isinstance(pattern.pattern, LocalePrefixPattern):
            return True
        # A route, or the regular expression of re_path().
        text = vars(pattern.pattern).get("_route", vars(pattern.pattern).get("_regex"))
        return not isinstance(text, str) or any(
            map(depends, getattr(pattern, "url_patterns", ()))
        )

    return any(map(depends, get_resolver(urlconf).url_patterns))


def _language(request: HttpRequest, urlconf: Any) -> str | None:
    """Return the language in which Django will resolve a request's path."""
    in_path = translation.get_language_from_path(request.path_info)
    if hasattr(request, "LANGUAGE_CODE") or not _will_choose_a_language(
        tuple(settings.MIDDLEWARE)
    ):
        # LocaleMiddleware stood before, or other middleware decides.
        return in_path or translation.get_language()
    # What LocaleMiddleware will do.
    has_prefix, prefixes_default = is_language_prefix_patterns_used(
        urlconf or settings.ROOT_URLCONF
    )
    if has_prefix and (in_path or not prefixes_default):
        return in_path or settings.LANGUAGE_CODE
    return translation.get_language_from_request(request)


@lru_cache(maxsize=1)
def _will_choose_a_language(middleware: tuple[str, ...]) -> bool:
    """Tell whether LocaleMiddleware, or one that inherits from it, is among these."""
    found = map(import_string, middleware)
    return any(
        isinstance(one, type) and issubclass(one, LocaleMiddleware) for one in found
    )
