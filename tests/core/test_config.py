from __future__ import annotations

import dataclasses
import math
import threading
from pathlib import Path

import pytest

from dbpool_mw.core.config import (
    APP_KEYS,
    MAX_CONTROL_DIR_BYTES,
    POOL_KEYS,
    PoolConfig,
    Problem,
    app_problems,
    build,
    problems,
    unknown,
)


def only(found: list[Problem]) -> Problem:
    assert len(found) == 1, found
    return found[0]


def test_without_values_the_configuration_has_the_defaults() -> None:
    assert problems({}) == []
    assert build({}) == PoolConfig()
    assert PoolConfig() == PoolConfig(0, 10, 5.0, 0, 600.0, 3600.0, 30.0, "auto")


def test_the_configuration_has_the_values_with_durations_as_floats() -> None:
    config = build({"MAX_CONNS": 20, "TIMEOUT": 3, "CHECK_AFTER_IDLE": 0})
    assert config == PoolConfig(max_conns=20, timeout=3.0, check_after_idle=0.0)
    assert isinstance(config.timeout, float)


def test_none_means_never_and_becomes_an_infinite_duration() -> None:
    never = ("MAX_IDLE", "MAX_LIFETIME", "LEAK_AFTER", "MAX_HOLD", "STUCK_AFTER")
    config = build(dict.fromkeys(never))
    assert {getattr(config, key.lower()) for key in never} == {math.inf}


@pytest.mark.parametrize("key", ["MIN_CONNS", "MAX_CONNS", "MAX_WAITING", "ROUTES"])
@pytest.mark.parametrize("value", [True, 1.0, None, [], "many"])
def test_a_count_must_be_a_whole_number(key: str, value: object) -> None:
    problem = only(problems({key: value}))
    assert (problem.key, problem.code) == (key, "type")
    assert problem.message == f"must be a whole number, not {value!r}."
    assert problem.hint


@pytest.mark.parametrize(
    ("key", "least"),
    [("MIN_CONNS", 0), ("MAX_CONNS", 1), ("MAX_WAITING", 0), ("ROUTES", 0)],
)
def test_a_count_has_a_least_value(key: str, least: int) -> None:
    assert problems({key: least}) == []
    problem = only(problems({key: least - 1}))
    assert problem.code == "range"
    assert f"must be {least} or more" in problem.message


def test_only_so_many_routes_may_be_counted() -> None:
    assert problems({"ROUTES": 200}) == []
    problem = only(problems({"ROUTES": 201}))
    assert (problem.code, problem.message) == ("range", "must be at most 200, not 201.")


@pytest.mark.parametrize("value", ["auto", "always", "never", print])
def test_reset_may_be_a_mode_or_a_function(value: object) -> None:
    assert build({"RESET": value}).reset == value


@pytest.mark.parametrize("value", ["", "Auto", "discard", None, True, 1, b"auto"])
def test_any_other_reset_is_a_problem(value: object) -> None:
    problem = only(problems({"RESET": value}))
    assert (problem.key, problem.code) == ("RESET", "type")
    assert "'auto', 'always', 'never'" in problem.message


SECONDS = [
    *("TIMEOUT", "MAX_IDLE", "MAX_LIFETIME", "CHECK_AFTER_IDLE"),
    *("LEAK_AFTER", "MAX_HOLD", "STUCK_AFTER"),
]


@pytest.mark.parametrize("key", SECONDS)
@pytest.mark.parametrize("value", [True, [], "soon", 1j])
def test_a_duration_must_be_a_number(key: str, value: object) -> None:
    problem = only(problems({key: value}))
    assert (problem.key, problem.code) == (key, "type")
    assert problem.message == f"must be a number of seconds, not {value!r}."
    assert problem.hint


@pytest.mark.parametrize("key", SECONDS)
@pytest.mark.parametrize("value", [-1, -0.5, math.inf, math.nan, 10**400])
def test_a_duration_must_be_positive_and_finite(key: str, value: float) -> None:
    assert only(problems({key: value})).code == "range"


@pytest.mark.parametrize("key", SECONDS)
@pytest.mark.parametrize("value", [1, 0.001, 86400.0])
def test_a_duration_may_be_any_other_number(key: str, value: float) -> None:
    assert problems({key: value}) == []


def test_only_check_after_idle_may_be_zero() -> None:
    assert problems({"CHECK_AFTER_IDLE": 0}) == []
    found = problems({"TIMEOUT": 0, "MAX_IDLE": 0.0, "MAX_LIFETIME": 0})
    assert [problem.code for problem in found] == ["range"] * 3


def test_timeout_and_check_after_idle_may_not_be_none() -> None:
    found = problems(dict.fromkeys(SECONDS))
    assert [problem.key for problem in found] == ["TIMEOUT", "CHECK_AFTER_IDLE"]


@pytest.mark.parametrize(
    ("key", "convert"), [("MAX_CONNS", "int"), ("TIMEOUT", "float")]
)
def test_the_hint_for_a_number_in_a_string_is_to_convert_it(
    key: str, convert: str
) -> None:
    problem = only(problems({key: "20"}))
    assert problem.code == "type"
    assert "Environment variables are strings" in problem.hint
    assert f"{convert}(os.environ" in problem.hint


def test_the_minimum_may_equal_the_maximum_and_not_exceed_it() -> None:
    assert problems({"MIN_CONNS": 10}) == []
    problem = only(problems({"MIN_CONNS": 11}))
    assert (problem.key, problem.code) == ("MIN_CONNS", "order")
    assert problem.message == "is 11, which is more than MAX_CONNS, 10."
    assert "Lower MIN_CONNS or raise MAX_CONNS" in problem.hint


def test_an_invalid_minimum_or_maximum_is_not_compared() -> None:
    assert only(problems({"MIN_CONNS": 5, "MAX_CONNS": "2"})).code == "type"
    assert only(problems({"MIN_CONNS": 5, "MAX_CONNS": 0})).code == "range"


@pytest.mark.parametrize(
    ("key", "suggestion"),
    [
        ("max_conns", "MAX_CONNS"),
        ("DBPOOL_MW_MAX_CONNS", "MAX_CONNS"),
        ("dbpool_mw_timeout", "TIMEOUT"),
        ("MAX_CONN", "MAX_CONNS"),
        ("MAXLIFETIME", "MAX_LIFETIME"),
        ("max_size", "MAX_CONNS"),
        ("pool_size", "MAX_CONNS"),
        ("CONN_MAX_AGE", "MAX_LIFETIME"),
    ],
)
def test_an_unknown_key_that_resembles_a_known_one_is_answered_with_that(
    key: str, suggestion: str
) -> None:
    problem = only(problems({key: 5}))
    assert (problem.key, problem.code) == (key, "unknown")
    assert problem.message == "is not a setting."
    assert problem.hint == f"Did you mean {suggestion}?"


@pytest.mark.parametrize("key", ["COLOUR", 7, None])
def test_an_unknown_key_that_resembles_none_is_answered_with_all_keys(
    key: object,
) -> None:
    problem = unknown(key, POOL_KEYS)
    assert problem.key == str(key)
    assert problem.hint == f"The settings are {', '.join(POOL_KEYS)}."


def test_every_key_is_validated_even_after_a_problem() -> None:
    found = problems({"COLOUR": 1, "EAGER": (), "MAX_CONNS": 0})
    assert [problem.key for problem in found] == ["COLOUR", "EAGER", "MAX_CONNS"]


@pytest.mark.parametrize(
    ("key", "value", "least"),
    [
        ("CHECK_AFTER_IDLE", -1, "0 or more and finite, not -1"),
        ("MAX_IDLE", 0, "more than 0 and finite, not 0"),
        ("MAX_IDLE", math.inf, "more than 0 and finite, not inf"),
        ("MAX_CONNS", 0, "1 or more, not 0"),
    ],
)
def test_the_message_for_a_number_out_of_range_has_the_range(
    key: str, value: float, least: str
) -> None:
    assert only(problems({key: value})).message == f"must be {least}."


def test_the_longest_timeout_that_python_accepts_is_valid() -> None:
    assert problems({"TIMEOUT": threading.TIMEOUT_MAX}) == []
    only(problems({"TIMEOUT": threading.TIMEOUT_MAX * 2}))


@pytest.mark.parametrize(
    ("value", "converts"), [("7", True), ("x", False), ([7], False)]
)
def test_only_a_string_with_a_number_has_the_hint_about_the_environment(
    value: object, converts: bool
) -> None:
    assert ("os.environ" in only(problems({"TIMEOUT": value})).hint) is converts


def test_a_configuration_is_immutable() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        PoolConfig().max_conns = 7  # type: ignore[misc]


def test_the_suggestion_has_the_prefix() -> None:
    assert unknown("TIMEOT", POOL_KEYS, "APP_").hint == "Did you mean APP_TIMEOUT?"


def test_a_setting_of_an_earlier_version_is_answered_with_what_replaced_it() -> None:
    hint = unknown("LAZY", (*APP_KEYS, *POOL_KEYS), "APP_").hint
    assert hint == "Write APP_EAGER = () for LAZY = True, and nothing for LAZY = False."


def test_a_project_wide_setting_is_a_problem_for_one_alias() -> None:
    problem = only(problems({"EAGER": ()}))
    assert problem.code == "unknown"
    assert problem.message == "can't be set for one alias."
    assert "EAGER applies to all aliases" in problem.hint


def test_build_raises_an_error_with_every_problem_and_its_hint() -> None:
    with pytest.raises(ValueError, match="MAX_CONNS must be 1 or more") as caught:
        build({"MAX_CONNS": 0, "TIMEOUT": None})
    assert "TIMEOUT must be a number of seconds" in str(caught.value)
    assert "for example 5.0" in str(caught.value)


SECRET = "correct-horse-battery"

VALID: dict[str, list[object]] = {
    "ENABLED": [True, False],
    "EAGER": [(), [], ("default",), ["default", "replica"]],
    "EXEMPT": [(), [], ["/health/"], ("/a", "/b/")],
    "POOLS": [{}, {"default": {}, "legacy": None}],
    "UNAVAILABLE_VIEW": [None, "project.views.busy"],
    "CONTROL_DIR": [None, False, "/run/project", Path("/run/project")],
    "WORKERS": [None, 1, 64],
    "METRICS_TOKEN": [None, "x" * 16, "k3Y_-~" * 10],
    "METRICS_LOOPBACK": [True, False],
}
INVALID: dict[str, list[tuple[object, str]]] = {
    "ENABLED": [(None, "type"), (1, "type"), ("True", "type")],
    "EAGER": [
        ("default", "eager"),
        (None, "eager"),
        (True, "eager"),
        ({"default"}, "eager"),
        ((1,), "eager"),
    ],
    "EXEMPT": [
        ("/health/", "exempt"),
        (None, "exempt"),
        ({"/health/"}, "exempt"),
        (["health/"], "exempt"),
        ([b"/health/"], "exempt"),
        ([""], "exempt"),
    ],
    "POOLS": [
        (None, "pools"),
        (["default"], "pools"),
        ({"default": 20}, "pools"),
        ({"default": False}, "pools"),
    ],
    "UNAVAILABLE_VIEW": [("busy", "view"), ("", "view"), (len, "view")],
    "CONTROL_DIR": [
        ("", "control_dir"),
        ("run", "control_dir"),
        ("~/run", "control_dir"),
        (Path("run"), "control_dir"),
        (b"/run", "control_dir"),
        (True, "control_dir"),
        (0, "control_dir"),
        (7, "control_dir"),
        ("/" + "x" * MAX_CONTROL_DIR_BYTES, "control_dir"),
        ("/" + "é" * (MAX_CONTROL_DIR_BYTES // 2), "control_dir"),
    ],
    "WORKERS": [(0, "range"), (-1, "range"), ("4", "type"), (True, "type")],
    "METRICS_TOKEN": [
        (SECRET[:15], "token"),
        (SECRET.encode(), "token"),
        (f"{SECRET} ", "token"),
        (f"{SECRET}\n", "token"),
        (f"{SECRET}é", "token"),
        ("", "token"),
        (True, "token"),
    ],
    "METRICS_LOOPBACK": [("True", "type"), (None, "type")],
}


def test_every_project_wide_setting_has_cases_in_this_file() -> None:
    assert set(VALID) == set(INVALID) == set(APP_KEYS)


@pytest.mark.parametrize(
    ("key", "value"), [(key, value) for key in VALID for value in VALID[key]]
)
def test_a_valid_value_is_no_problem(key: str, value: object) -> None:
    assert app_problems({key: value}) == []


@pytest.mark.parametrize(
    ("key", "value", "code"), [(key, *case) for key in INVALID for case in INVALID[key]]
)
def test_an_invalid_value_is_a_problem_with_a_hint(
    key: str, value: object, code: str
) -> None:
    problem = only(app_problems({key: value}))
    assert (problem.key, problem.code) == (key, code)
    assert problem.message.endswith(".")
    assert problem.hint.endswith((".", "]."))


def test_no_message_shows_a_secret() -> None:
    for value, _ in INVALID["METRICS_TOKEN"]:
        assert SECRET[:8] not in repr(only(app_problems({"METRICS_TOKEN": value})))


def test_the_hint_for_a_single_exempt_path_is_a_list() -> None:
    problem = only(app_problems({"EXEMPT": "/health/"}))
    assert problem.hint == "Put the text into a list: ['/health/']."


def test_a_control_directory_as_long_as_the_limit_is_valid() -> None:
    path = "/" + "x" * (MAX_CONTROL_DIR_BYTES - 1)
    assert app_problems({"CONTROL_DIR": path}) == []


def test_the_hint_for_a_flag_in_a_string_is_to_convert_it() -> None:
    problem = only(app_problems({"ENABLED": "False"}))
    assert 'os.environ.get("NAME") == "1"' in problem.hint
