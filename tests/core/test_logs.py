"""Records of loggers that escape what others wrote."""

from __future__ import annotations

import io
import logging
import signal
import traceback
from functools import partial
from pathlib import Path

import pytest

import dbpool_mw
from dbpool_mw.core.logs import get_logger
from tests.core.fakes import HOSTILE

logger = get_logger("dbpool_mw.tests")


@pytest.fixture
def output():
    """Give what a handler with Python's own formatter writes."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    logger.addHandler(handler)
    yield stream.getvalue
    logger.removeHandler(handler)


class Mute(Exception):
    def __str__(self):
        raise RuntimeError("no text")


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("kind", [str, ValueError])
def test_an_argument_is_one_printable_line_of_bounded_length(output, text, kind):
    logger.warning("%s: %d of %.1f: %s", text, 1, 2.5, kind(text))
    assert output().endswith("\n")
    line = output()[:-1]
    assert line.startswith("WARNING ")
    assert " 1 of 2.5: " in line
    assert line.isprintable()
    assert len(line) < 10_000


def test_the_arguments_of_a_printable_record_stay_as_they_are(caplog):
    logger.warning("%s: %r, %s", "default", 3, None)
    assert caplog.messages == ["default: 3, None"]
    logger.warning("nothing: 100%")
    assert caplog.messages[1] == "nothing: 100%"


def test_an_exception_of_several_lines_is_one(caplog):
    logger.warning("failed: %s", ValueError("FATAL:  no\nDETAIL:  none\n"))
    logger.warning("failed: %s", KeyError())
    assert caplog.messages == ["failed: FATAL: no DETAIL: none", "failed: KeyError"]


def test_only_a_list_stands_on_several_lines(caplog):
    logger.warning("here:\n%s", ["one", "two\x1b", "x" * 1_000_000])
    lines = caplog.messages[0].split("\n")
    assert lines[:3] == ["here:", "one", "two\\x1b"]
    assert len(lines[3]) < 10_000


def test_an_exception_without_a_text_is_logged_all_the_same(output):
    try:
        raise Mute
    except Mute as error:
        logger.exception("failed: %s", error)
    assert "failed: <Mute without a text>" in output()
    assert "in test_an_exception_without" in output()


@pytest.mark.parametrize("text", HOSTILE)
def test_a_traceback_shows_each_exception_on_one_printable_line(output, text):
    try:
        try:
            raise ValueError(text)
        except ValueError as error:
            raise KeyError(text) from error
    except KeyError:
        logger.exception("failed")
    lines = output().splitlines()
    assert "".join(lines) == "".join(output().split("\n"))
    assert all(line.isprintable() and len(line) < 10_000 for line in lines)
    # Its first line, two tracebacks of one frame, and what joins them.
    assert len(lines) < 20
    assert lines[1] == "Traceback (most recent call last):"
    assert sum(line.startswith(("ValueError:", "KeyError:")) for line in lines) == 2


def test_a_traceback_names_cause_and_context_as_python_does(output):
    try:
        try:
            raise ValueError("first")
        finally:
            raise KeyError("second")
    except KeyError:
        logger.exception("failed")
    assert output().count("During handling of the above exception") == 1
    assert output().index("first") < output().index("second")
    record = logging.LogRecord("", 0, "", 0, "", (), None)
    assert record.exc_text is None


def test_an_exception_without_frames_or_with_a_circle_is_logged(output):
    one, other = ValueError("one"), ValueError("other")
    one.__cause__, other.__cause__ = other, one
    logger.warning("failed", exc_info=one)
    assert output().count("ValueError: one") == 1
    assert output().count("ValueError: other") == 1


def test_an_exception_that_cannot_be_shown_is_logged_by_its_name(output, monkeypatch):
    def refuse(*arguments, **options):
        raise RuntimeError("no traceback")

    monkeypatch.setattr(traceback.TracebackException, "from_exception", refuse)
    logger.warning("failed", exc_info=ValueError("text"))
    assert output() == "WARNING failed\nValueError without a traceback\n"


def test_every_logger_of_the_package_is_such_a_logger():
    package = Path(dbpool_mw.__file__).parent
    sources = {path: path.read_text() for path in package.rglob("*.py")}
    made = [path.name for path, text in sources.items() if "getLogger(" in text]
    assert made == ["logs.py"]


def test_what_a_handler_raises_is_printed_and_reaches_no_caller(capsys):
    class Broken(logging.Handler):
        def emit(self, record):
            raise ValueError("the table is full")

    handler = Broken()
    logger.addHandler(handler)
    try:
        logger.warning("%s: opened", "default")
        assert "the table is full" in capsys.readouterr().err
        logging.raiseExceptions = False
        logger.warning("%s: opened", "default")
        assert capsys.readouterr().err == ""
    finally:
        logging.raiseExceptions = True
        logger.removeHandler(handler)


class Limit(Exception):
    """As a task's soft time limit."""


def raise_limit(number, frame):
    raise Limit


class Limiter:
    def method(self, number, frame):
        raise Limit

    def __call__(self, number, frame):
        raise Limit


@pytest.mark.parametrize(
    "handle", [raise_limit, partial(raise_limit), Limiter().method, Limiter()]
)
def test_what_a_signals_handler_raises_meanwhile_is_not_swallowed(handle, capsys):
    class Limited(logging.Handler):
        def emit(self, record):
            signal.raise_signal(signal.SIGALRM)

    handler = Limited()
    logger.addHandler(handler)
    before = signal.signal(signal.SIGALRM, handle)
    try:
        with pytest.raises(Limit):
            logger.warning("%s: opened", "default")
    finally:
        signal.signal(signal.SIGALRM, before)
        logger.removeHandler(handler)
    assert capsys.readouterr().err == ""
