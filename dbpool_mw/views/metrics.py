"""Show the figures of every worker of the host in Prometheus' text format."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse

from dbpool_mw import conf
from dbpool_mw.control.paths import ControlDirError
from dbpool_mw.control.prometheus import prometheus
from dbpool_mw.control.survey import survey
from dbpool_mw.core.text import one_line
from dbpool_mw.views.access import for_machines, forbidden, is_permitted, text

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@for_machines
def metrics(request: HttpRequest) -> HttpResponse:
    """Return what ``dbpool_stats --format prometheus`` prints, from any worker.

    Each worker is asked over its control socket, and has a second to answer: one that
    doesn't has ``dbpool_mw_worker_up`` 0. Without control sockets, 503 says why.
    """
    if not is_permitted(request):
        return forbidden()
    if conf.is_switched_off():
        return _unavailable("DBPOOL_MW_ENABLED is False, so there are no pools.")
    directory = conf.control_dir()
    if directory is None:
        return _unavailable(
            "DBPOOL_MW_CONTROL_DIR is False, so no worker can ask the others. Set a "
            "directory, or have dbpool_mw.contrib.prometheus.PoolCollector show the "
            "figures of a single process."
        )
    try:
        answers = survey(directory)
    except ControlDirError as error:
        return _unavailable(f"The control directory can't be used: {error}.")
    if not answers:
        return _unavailable(
            f"No worker has a control socket in {directory}. A worker opens it about a "
            "second after it has loaded the middleware; the log says why it can't."
        )
    response = HttpResponse(prometheus(answers), content_type=CONTENT_TYPE)
    response.headers["Cache-Control"] = "no-store"
    return response


def _unavailable(reason: str) -> HttpResponse:
    response = text(f"{one_line(reason)}\n", 503)
    # Django logs it at ERROR otherwise, and mails it to ADMINS, at each scrape.
    response._has_been_logged = True  # type: ignore[attr-defined]
    return response
