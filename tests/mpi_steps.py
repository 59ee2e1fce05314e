"""What tests/test_mpi.py has ranks do, in one launch: python tests/mpi_steps.py calls | fail HOW"""

import os
import signal
import sys
import time

import numpy as np

from numgpt.parallel.failure import supervised
from numgpt.parallel.mpi_ranks import threads_of, world
from numgpt.parallel.ranks import tree_sum


def calls(ranks):
    """Every call of Ranks, against what each rank knows of the others."""
    r, N = ranks.rank, ranks.size
    draws = [np.random.default_rng(i) for i in range(N)]
    for n in (0, 3, 5000, 100_001):  # few numbers and many take different ways
        parts = [draw.standard_normal(n).astype(np.float32) for draw in draws]
        given = parts[r].copy()
        assert (ranks.all_reduce(given) == tree_sum(parts)).all()
        assert (ranks.all_reduce(given, "max") == np.max(parts, 0)).all()
        assert (given == parts[r]).all()
    whole = [np.arange(12.0).reshape(3, 4) * (i + 1j) for i in range(N)]
    assert (ranks.all_reduce(whole[r].T) == tree_sum(whole).T).all()  # not contiguous, complex
    assert ranks.all_reduce(np.array(2)).shape == () and ranks.all_reduce(np.array(2)) == 2 * N
    x = np.arange(6 * N).reshape(3, 2 * N)
    assert (ranks.all_gather(x[:, 2 * r : 2 * r + 2], 1) == x).all()
    lengths = [i + 1 for i in range(N)]
    ends = np.cumsum([0, *lengths])
    y = np.stack([np.arange(float(ends[-1]))] * 2)
    own = ranks.reduce_scatter(y * (r + 1), lengths, axis=1)
    assert (own == sum(lengths) * y[:, ends[r] : ends[r + 1]]).all()
    got = ranks.all_to_all([np.full((r, i), 10 * r + i) for i in range(N)])
    assert all(a.shape == (i, r) and (a == 10 * i + r).all() for i, a in enumerate(got))
    assert (ranks.broadcast(x if r == N - 1 else None, N - 1) == x).all()
    for tag in (1, 2):
        ranks.send(x * tag * r, (r + 1) % N, tag)
    for tag in (2, 1):  # not in the order in which they were sent
        assert (ranks.receive((r - 1) % N, tag) == x * tag * ((r - 1) % N)).all()
    assert ranks.gather_texts("é" * r) == ["é" * i for i in range(N)]
    arrays = ranks.window(10 + r, np.float32)
    arrays[r][:] = r
    ranks.barrier()
    assert [(len(a), a[-1]) for a in arrays] == [(10 + i, i) for i in range(N)]
    half = ranks.split(r % 2)
    assert half.all_gather(np.array([r])).tolist() == [*range(r % 2, N, 2)]
    assert threads_of(ranks) == max(1, len(os.sched_getaffinity(0)) // N)
    ranks.barrier()
    return 0, ""


def fail(ranks, how):
    """What goes wrong on rank 1, while the others go on to the next call."""
    ranks.barrier()
    if how == "refuse all":
        return 2, "numgpt: is wrong, expected right"
    if ranks.rank == 1:
        if how == "raise":
            raise ValueError("a mistake of rank 1")
        if how == "refuse":
            return 2, "numgpt: is wrong here, expected right"
        if how == "exit":
            sys.exit(3)
        if how == "return":
            return 0, ""
        if how == "sleep":
            time.sleep(100)
        if how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if how == "leave":
            os._exit(5)
    ranks.all_reduce(np.ones(3))
    return 0, ""


if __name__ == "__main__":
    together = world(float(os.environ.get("NUMGPT_PATIENCE", "20")))
    work = {"calls": calls, "fail": fail}[sys.argv[1]]
    sys.exit(supervised(together, lambda: work(together, *sys.argv[2:])))
