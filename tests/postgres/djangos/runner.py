"""Django's test runner, which also writes down how each test ended."""

from __future__ import annotations

import json
import os
import unittest
from pathlib import Path
from typing import Any

from django.test.runner import DiscoverRunner


class Result(unittest.TextTestResult):
    """Note the outcome of each test: "ok", "skipped", or the last line of an error."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.outcomes: dict[str, str] = {}

    def addSuccess(self, test: unittest.TestCase) -> None:
        super().addSuccess(test)
        self.outcomes.setdefault(test.id(), "ok")

    def addSkip(self, test: unittest.TestCase, reason: str) -> None:
        super().addSkip(test, reason)
        self.outcomes[test.id()] = "skipped"

    def addExpectedFailure(self, test: unittest.TestCase, err: Any) -> None:
        super().addExpectedFailure(test, err)
        self.outcomes[test.id()] = "expected failure"

    def addUnexpectedSuccess(self, test: unittest.TestCase) -> None:
        super().addUnexpectedSuccess(test)
        self.outcomes[test.id()] = "unexpected success"

    def addFailure(self, test: unittest.TestCase, err: Any) -> None:
        super().addFailure(test, err)
        self._note(test, err)

    def addError(self, test: unittest.TestCase, err: Any) -> None:
        super().addError(test, err)
        self._note(test, err)

    def addSubTest(self, test: Any, subtest: Any, err: Any) -> None:
        super().addSubTest(test, subtest, err)
        if err is not None:
            self._note(test, err)

    def _note(self, test: unittest.TestCase, err: Any) -> None:
        self.outcomes[test.id()] = f"{err[0].__name__}: {err[1]}"


class Runner(DiscoverRunner):
    """Write what each test came to into the file that TEST_OUTCOMES names."""

    def get_resultclass(self) -> type[unittest.TextTestResult]:
        """Have unittest use ``Result``."""
        return Result

    def run_suite(self, suite: unittest.TestSuite, **kwargs: Any) -> Any:
        """Run the tests and write the file."""
        result: Any = super().run_suite(suite, **kwargs)
        Path(os.environ["TEST_OUTCOMES"]).write_text(json.dumps(result.outcomes))
        return result
