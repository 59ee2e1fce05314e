"""The BLAS has one thread within a session, and afterwards as many as before, whatever comes between."""

import os
import subprocess
import sys
import threading

import numpy as np
import pytest

import numgpt
from numgpt import InputError
from numgpt.engine import blas_threads
from numgpt.engine.blas_threads import OneThread, Pool

AT_START = 4


class Library:
    """A BLAS that does nothing but remember its number of threads."""

    def __init__(self):
        self.threads = AT_START

    def get(self):
        return self.threads

    def set(self, n):
        self.threads = n


@pytest.fixture
def library():
    return Library()


@pytest.fixture
def pool(library):
    return Pool(library.get, library.set)


def test_the_last_of_several_to_leave_gives_the_threads_back(library, pool):
    """Whoever came first: the second goes on in the bits in which it began."""
    for order in ((0, 1), (1, 0)):
        sessions = OneThread(pool), OneThread(pool)
        for session in sessions:
            session.__enter__()
        sessions[order[0]].__exit__(None, None, None)
        assert library.threads == 1
        sessions[order[1]].__exit__(None, None, None)
        assert library.threads == AT_START


def test_many_python_threads_leave_it_as_it_was(library, pool):
    others = []

    def work():
        for _ in range(200):
            with OneThread(pool), OneThread(pool):
                others.append(library.threads)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(others) == {1} and library.threads == AT_START and not pool.inside


def test_a_limit_that_is_set_meanwhile_holds_afterwards(library, pool):
    with OneThread(pool):
        pool.limit(3)
        assert library.threads == 1
    assert library.threads == 3


def interrupted_at(event, work):
    """Whether work came to its traced event of that number, where it is interrupted as by Ctrl-C."""
    events = 0

    def trace(frame, kind, argument):
        nonlocal events
        if frame.f_code.co_filename != blas_threads.__file__:
            return None
        events += 1
        if events == event:
            sys.settrace(None)
            raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    try:
        sys.settrace(trace)
        work()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
    return False


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_at_any_line_leaves_it_as_it_was(library, pool):
    def work():
        with OneThread(pool):
            assert library.threads == 1

    event = 1
    while interrupted_at(event, work):
        assert library.threads == AT_START and not pool.inside, event
        event += 1
    assert event > 10


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_child_of_a_fork_has_the_threads_of_nobodys_session():
    """Nobody in the child could leave another thread's session; that of the forking thread goes on."""
    code = """
import os, threading
from numgpt.engine import blas_threads
threads = [4]
pool = blas_threads._POOLS[0] = blas_threads.Pool(lambda: threads[0], lambda n: threads.__setitem__(0, n))
entered, done = threading.Event(), threading.Event()
def other():
    with blas_threads.OneThread(pool):
        entered.set()
        done.wait()
thread = threading.Thread(target=other)
thread.start()
entered.wait()
if os.fork() == 0:
    os._exit(threads[0])
print(os.waitstatus_to_exitcode(os.wait()[1]))
with blas_threads.OneThread(pool):
    if os.fork() == 0:
        within = threads[0]
        os._exit(10 * within)
    print(os.waitstatus_to_exitcode(os.wait()[1]))
done.set()
thread.join()
print(threads[0])
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == ["4", "10", "4"], done.stderr


def threads_of_numpy():
    pool = blas_threads.numpys()
    if pool is None:
        pytest.skip("the BLAS of this NumPy cannot be asked for its threads")
    return pool


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one processor only")
def test_set_threads_limits_the_blas_that_the_reference_computes_with():
    pool = threads_of_numpy()
    before = pool.get()
    try:
        for n in (1, 2):
            numgpt.set_threads(n)
            assert pool.get() == n
        numgpt.set_threads(1000)
        assert pool.get() == os.cpu_count()
    finally:
        pool.limit(before)


def test_the_pool_of_kernels_is_the_one_of_numpy():
    """Where both call the OpenBLAS of NumPy's wheel, they count the same sessions."""
    pytest.importorskip("numba", reason="Numba is not installed")
    from numgpt.engine import blas

    if blas.POOL is None:
        pytest.skip(f"{blas.NAME} has no threads of its own")
    assert blas.POOL is threads_of_numpy()


@pytest.mark.parametrize("n", [0, -1, 1.5, "2", None, np.array([1])])
def test_a_number_of_threads_is_an_integer_of_one_or_more(n):
    with pytest.raises(InputError, match="set_threads: n is .*, expected an integer of 1 or more"):
        numgpt.set_threads(n)
