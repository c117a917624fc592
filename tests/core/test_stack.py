"""Capturing the stack of a checkout."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

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


#: A collection while a frame is asked for its caller lets the other thread leave its
#: calls, and use their memory for others.
LEAVES = """
import dis, gc, sys, threading
from dbpool_mw.core import stack

is_in, may_leave, has_left = threading.Event(), threading.Event(), threading.Event()

def deep(depth, *unused):
    if depth:
        return deep(depth - 1, {}, 1, {}, 2)
    if not is_in.is_set():
        is_in.set()
        may_leave.wait(20)
    else:
        has_left.set()
        threading.Event().wait(20)

def work():
    deep(20)
    deep(40)

thread = threading.Thread(target=work, daemon=True)
thread.start()
is_in.wait(20)

def leave(phase, info):
    frame = sys._getframe().f_back
    if frame is None or may_leave.is_set():
        return
    for each in dis.get_instructions(frame.f_code):
        if each.offset == frame.f_lasti and each.argval == "f_back":
            may_leave.set()
            has_left.wait(20)

def read():
    return stack.of_threads()[thread.ident] if every else stack.of_thread(thread.ident)

every = sys.argv[1] == "of_threads"
gc.callbacks.append(leave)
gc.set_threshold(1)
calls = read()
gc.set_threshold(0)
names = [call[-2].co_name for call in calls]
assert names.count("deep") == 21, names
assert gc.isenabled()
"""


@pytest.mark.parametrize("function", ["of_threads", "of_thread"])
def test_a_thread_may_leave_its_calls_while_its_stack_is_read(function):
    command = [sys.executable, "-X", "faulthandler", "-c", LEAVES, function]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stderr) == (0, "")


#: A thread forks while another reads stacks; each child tells whether it collects.
FORKS = """
import gc, os, threading, warnings
from dbpool_mw.core import stack

warnings.simplefilter("ignore", DeprecationWarning)
has_forked = threading.Event()

def read():
    while not has_forked.is_set():
        stack.of_threads()

reader = threading.Thread(target=read)
reader.start()
ended = []
for _ in range(50):
    child = os.fork()
    if not child:
        os._exit(0 if gc.isenabled() else 1)
    ended.append(os.waitpid(child, 0)[1])
has_forked.set()
reader.join()
assert not any(ended), ended
"""


def test_a_fork_while_a_stack_is_read_leaves_the_child_its_collector():
    command = [sys.executable, "-X", "faulthandler", "-c", FORKS]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stderr) == (0, "")
