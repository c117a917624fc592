"""The stack of a checkout."""

from __future__ import annotations

import threading

from dbpool_mw.core import stack


def outer():
    # The call stands in a line above its argument, which comes before it in the code.
    return inner(
        None,
    )


def inner(unused=None):
    both = (
        stack.capture(),
        id(outer),
    )
    return both[0]


def test_it_tells_the_calls_the_innermost_last():
    text = stack.lines(outer())
    assert text[-2].endswith("in inner")
    assert text[-1].strip() == "stack.capture(),"
    assert text[-4].endswith("in outer")
    assert text[-3].strip() == "return inner("


def test_of_a_deep_one_the_innermost_calls_are_kept():
    def deep(depth):
        return deep(depth - 1) if depth else inner()

    found = deep(100)
    assert len(found) == stack.DEPTH
    assert [code.co_name for code, _ in found[:3]] == ["inner", "deep", "deep"]


def test_one_shallower_than_that_is_whole():
    code = compile("found = capture()", "<alone>", "exec")
    names = {"capture": stack.capture}
    thread = threading.Thread(target=exec, args=(code, names))
    thread.start()
    thread.join()
    assert len(names["found"]) < stack.DEPTH
    assert names["found"][0][0].co_filename == "<alone>"
