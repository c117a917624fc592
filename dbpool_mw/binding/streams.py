"""Tell whether a thread is in the middle of a response's stream.

Its request is answered, and goes on all the same: a request that begins meanwhile in
this thread runs inside of it. One that begins after a stream that the server never
closed doesn't, nor does one in the thread of a request that another thread streams for.
So the stack has to tell, where it can: see ``requests``.
"""

from __future__ import annotations

import weakref
from inspect import isasyncgen, isgenerator
from types import FrameType
from typing import Any

from django.core.handlers.asgi import ASGIRequest
from django.http import StreamingHttpResponse

from dbpool_mw.core.stack import frames

#: The attribute of a request with a weak reference to its response, if that streams.
_KEY = "_dbpool_mw_stream"

_ITER = StreamingHttpResponse.__iter__.__code__


def note_stream(request: Any, response: Any) -> None:
    """Note that the response to a request streams."""
    setattr(request, _KEY, weakref.ref(response))


def streams(request: Any) -> bool:
    """Tell whether the response to a request streams; in any thread."""
    return hasattr(request, _KEY)


def is_streaming(request: Any) -> bool:
    """Tell whether this thread runs the stream of the response to a request.

    It can be told of generators. Under ASGI an ``async`` one's thread serves no other
    request; under WSGI Django reads it to its end when the server asks for its first
    item.
    """
    reference = getattr(request, _KEY, None)
    return reference is not None and _runs_here(reference(), request)


def _runs_here(response: Any, request: Any) -> bool:
    stream = getattr(response, "_iterator", None)
    if isasyncgen(stream):
        return stream.ag_running and (
            isinstance(request, ASGIRequest)
            or any(_reads(frame, response) for frame in frames())
        )
    return (
        isgenerator(stream)
        and stream.gi_running
        and any(frame is stream.gi_frame for frame in frames())
    )


def _reads(frame: FrameType, response: Any) -> bool:
    return frame.f_code is _ITER and frame.f_locals.get("self") is response
