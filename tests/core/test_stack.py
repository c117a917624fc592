"""Capturing the stack of a checkout."""

from __future__ import annotations

import threading

from dbpool_mw.core import stack


def outer():
    # The call begins on the line above its argument: the stack has to show that line.
    return inner(
        None,
    )


def inner(unused=None):
    both = (
        stack.capture(),
        id(outer),
    )
    return both[0]


def test_a_stack_lists_the_calls_with_the_innermost_last():
    text = stack.lines(outer())
    assert text[-2].endswith("in inner")
    assert text[-1].strip() == "stack.capture(),"
    assert text[-4].endswith("in outer")
    assert text[-3].strip() == "return inner("


def test_a_deep_stack_keeps_its_innermost_calls():
    def deep(depth):
        return deep(depth - 1) if depth else inner()

    found = deep(100)
    assert len(found) == stack.DEPTH
    assert [code.co_name for code, _ in found[:3]] == ["inner", "deep", "deep"]


def test_a_stack_shallower_than_the_limit_is_complete():
    code = compile("found = capture()", "<alone>", "exec")
    names = {"capture": stack.capture}
    thread = threading.Thread(target=exec, args=(code, names))
    thread.start()
    thread.join()
    assert len(names["found"]) < stack.DEPTH
    assert names["found"][0][0].co_filename == "<alone>"
