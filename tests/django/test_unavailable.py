"""The response and the warning for a request that gets no connection."""

from __future__ import annotations

import pytest
from django.test import RequestFactory

from dbpool_mw.binding import unavailable
from dbpool_mw.binding.errors import PoolTimeout
from tests.core.fakes import HOSTILE


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
@pytest.mark.parametrize("accept", ["text/html", "application/json"])
def test_the_warning_is_one_printable_line_whatever_was_asked(text, accept, caplog):
    request = RequestFactory().get("/", headers={"Accept": accept})
    request.method = request.path = text
    error = PoolTimeout("default", f"pool 'default': {text}", f"held by {text}")
    response = unavailable.respond(request, error)
    (message,) = caplog.messages
    assert message.startswith("503 for ")
    assert message.isprintable()
    assert len(message) < 10_000
    assert response.status_code == 503
    assert "held by" not in response.content.decode()
    assert len(response.content) < 10_000


def test_the_warning_names_the_request_and_the_holders(caplog):
    request = RequestFactory().get("/a%0Ab/")
    error = PoolTimeout("default", "no connection", "held by GET /slow/")
    unavailable.respond(request, error)
    assert caplog.messages == ["503 for GET /a\\nb/: no connection; held by GET /slow/"]
