"""Ranks over MPI: no call waits for ever, and what waits too long says for whom."""

from __future__ import annotations

import functools
import itertools
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ..errors import InputError
from .ranks import Alone, Array, Ranks, tree_sum

PATIENCE = 600.0  # seconds that a call waits; rank 0 may write a large checkpoint meanwhile
SETTING = "NUMGPT_PATIENCE"  # the variable of the environment that says another number
GRACE = 2.0  # seconds between a rank's end and the end of those who wait for it
FORWARDED = 0.3  # seconds for mpiexec to pass on what was printed, before it is told to end
AWAKE, NAP = 0.02, 2e-4  # seconds of waiting awake, and of each sleep after them
LOOKS = 50  # at a call, before the first look at the clock
FEW = 1 << 14  # bytes below which all parts of a sum go everywhere: fewer messages, more bytes
AT_ONCE = 1 << 20  # numbers of a sum that are sent and added up at once
SUM = 32767  # the tag of their messages, the largest that every MPI has; those of send are below
AXES = 6  # that an array may have which is sent: its header holds its shape
LATE, ENDED = 13, 1  # the exit status of who waits too long; what the board says of a rank that has ended
# What a rank may be at, as the board numbers it.
CALLS: tuple[str, ...] = ("its beginning", "all_reduce", "all_gather", "reduce_scatter", "all_to_all")
CALLS += ("broadcast", "send", "receive", "gather_texts", "barrier", "split", "window", "its end")


def started_by_mpiexec() -> int | None:
    """This process's number where something like mpiexec has started it, by the environment; else None."""
    names = ("PMI_RANK", "PMIX_RANK", "OMPI_COMM_WORLD_RANK")
    numbers = [os.environ[name] for name in names if os.environ.get(name, "").isdigit()]
    return int(numbers[0]) if numbers else None


def world(patience: float | None = None) -> Ranks:
    """All processes that mpiexec has started; Alone for a process that was started by itself.

    patience: seconds that a call waits for the others; $NUMGPT_PATIENCE, else 600, unless given.
    """
    if started_by_mpiexec() is None:
        return Alone()
    if patience is None:
        patience = _patience()
    try:
        import mpi4py

        mpi4py.rc.thread_level = "funneled"  # kernels have threads of their own, none of which calls MPI
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:  # mpi4py's wheel brings no MPI of its own
        raise InputError(
            f"parallel: mpi4py finds no MPI ({' '.join(str(error).split())}), expected both where mpiexec"
            " starts several processes: pip install mpi4py mpich"
        ) from error
    comm = MPI.COMM_WORLD
    if comm.Get_size() == 1:
        return Alone()
    return MpiRanks(comm.Dup(), Board(comm, patience))


def _patience() -> float:
    text = os.environ.get(SETTING, "")
    try:
        seconds = float(text) if text else PATIENCE
    except ValueError:
        seconds = -1.0
    if not 0 < seconds < np.inf:
        raise InputError(f"parallel: {SETTING} is {text!r}, expected seconds above 0")
    return seconds


class Board:
    """What each rank of a host is doing, written where the others of the host can read it without it.

    A rank that sleeps answers no message, so who waits for it could not ask it.
    """

    def __init__(self, comm: Any, patience: float) -> None:
        from mpi4py import MPI

        self.patience, self.grace = patience, min(GRACE, patience / 2)
        self.rank, self.size = comm.Get_rank(), comm.Get_size()
        self.comm = comm.Dup()  # for leave() alone
        self.host = comm.Split_type(MPI.COMM_TYPE_SHARED)
        self.window, parts = _shared(self.host, 3, np.int64)  # (calls, which of CALLS, ENDED)
        members = self.host.allgather(self.rank)
        self.states = dict(zip(members, parts))
        self.own = self.states[self.rank]

    def begin(self, call: str) -> None:
        """Note that this rank begins a call."""
        self.own[0] += 1
        self.own[1] = CALLS.index(call)

    def end(self) -> None:
        """Note that this rank has done its work, and comes to no call any more."""
        self.own[1] = CALLS.index("its end")
        self.own[2] = ENDED

    def missing(self, members: Sequence[int]) -> list[int]:
        """Those of some ranks, on this host, that are at their end, or else at another call than this one."""
        states = {rank: self.states[rank] for rank in members if rank in self.states and rank != self.rank}
        ended = [rank for rank, state in states.items() if state[1] == CALLS.index("its end")]
        elsewhere = [rank for rank, state in states.items() if tuple(state[:2]) != tuple(self.own[:2])]
        return elsewhere if self.own[2] == ENDED else ended or elsewhere

    def wait(self, is_done: Callable[[], Any], call: str, asked: Sequence[int]) -> None:
        """Look whether a call is done until it is; all end where one of those it asks never comes."""
        looks = 0
        begun = gone_since = 0.0
        while not is_done():
            looks += 1
            if looks % LOOKS:
                continue
            now = time.monotonic()
            begun = begun or now
            if now - begun < AWAKE:
                _give_way()
                continue
            time.sleep(NAP)
            others = [self.states[rank] for rank in asked if rank in self.states and rank != self.rank]
            gone_since = (gone_since or now) if any(state[2] == ENDED for state in others) else 0.0
            is_deserted = gone_since and now - gone_since > self.grace
            if is_deserted or now - begun > self.patience:
                self._give_up(call, asked, now - begun)

    def _give_up(self, call: str, asked: Sequence[int], seconds: float) -> NoReturn:
        """End all processes, after a line that says which call waited for whom."""
        missing = self.missing(asked)
        whom = "another host" if any(rank not in self.states for rank in asked) else "all of them"
        if missing:
            whom = ", ".join(map(self.at, missing))
        print(
            f"numgpt: rank {self.rank} of {self.size}: {call} (call {self.own[0]:,}) has waited"
            f" {seconds:.1f} s for {whom}, expected all ranks within {self.patience:g} s ({SETTING}): all are"
            " ended; a run goes on from its last checkpoint by --resume",
            file=sys.__stderr__,
            flush=True,
        )
        abort(LATE)

    def at(self, rank: int) -> str:
        """What a rank is at, with its number."""
        calls, which, _ = self.states[rank].tolist()
        return f"rank {rank}, which is at {CALLS[which]} (call {calls:,})"


def _give_way() -> None:
    """Let another process have this core: the one that is waited for may need it."""
    if hasattr(os, "sched_yield"):
        os.sched_yield()


def abort(status: int) -> NoReturn:
    """End the processes of all ranks."""
    from mpi4py import MPI

    time.sleep(FORWARDED)
    MPI.COMM_WORLD.Abort(status)
    os._exit(status)


def _shared(host: Any, n: int, dtype: DTypeLike) -> tuple[Any, list[Array]]:
    """A window of MPI, and the array of zeros in it of each rank of a host, (n,) of this one."""
    from mpi4py import MPI

    lengths = [length * np.dtype(dtype).itemsize for length in host.allgather(n)]
    size = max(64, -(-lengths[host.Get_rank()] // 64) * 64)  # whole lines of the cache
    window = MPI.Win.Allocate_shared(size, 1, comm=host)
    window.Lock_all(MPI.MODE_NOCHECK)
    buffers: list[Any] = [window.Shared_query(rank)[0] for rank in range(host.Get_size())]
    arrays = [np.frombuffer(b, np.uint8)[:length].view(dtype) for b, length in zip(buffers, lengths)]
    arrays[host.Get_rank()][:] = 0
    window.Sync()
    host.Barrier()
    window.Sync()
    return window, arrays


class MpiRanks:
    """Ranks over a communicator of mpi4py, as numgpt.parallel.ranks.Ranks says.

    Every call is one that does not block, looked at until it is done, because a call that blocks waits for
    ever where a rank has failed. Arrays travel as bytes; where the others cannot know their shape, a header
    with it goes before.
    """

    def __init__(self, comm: Any, board: Board) -> None:
        self.comm, self.board = comm, board
        self.rank, self.size = comm.Get_rank(), comm.Get_size()
        # Of each rank here its number among all, by which the board knows it.
        self.members: list[int] = comm.allgather(board.rank)
        self.sent: list[tuple[Any, Any]] = []  # requests that are under way, with what they send
        self.windows: list[Any] = []

    def all_reduce(self, array: Array, how: str = "sum") -> Array:
        """As Ranks says. Few bytes go everywhere; of many, each rank adds up a part, and all get the sums."""
        self.board.begin("all_reduce")
        shape = np.shape(array)
        flat = np.ascontiguousarray(array).reshape(-1)
        if how != "sum" or flat.nbytes <= FEW:
            whole = np.empty((self.size, flat.size), flat.dtype)
            self._wait("all_reduce", self.comm.Iallgather(_bytes(flat), _bytes(whole)))
            result = tree_sum(list(whole)) if how == "sum" else whole.max(0)
            return result.reshape(shape)
        cuts = [flat.size * rank // self.size for rank in range(self.size + 1)]
        lengths = [b - a for a, b in itertools.pairwise(cuts)]
        own = self._own_sum("all_reduce", flat, lengths)
        result = np.empty_like(flat)
        counts = [length * flat.itemsize for length in lengths]
        self._wait("all_reduce", self.comm.Iallgatherv(_bytes(own), [_bytes(result), counts]))
        return result.reshape(shape)

    def all_gather(self, array: Array, axis: int = 0) -> Array:
        """As Ranks says."""
        self.board.begin("all_gather")
        array = np.asarray(array)
        if axis == 0:  # the parts lie one behind the other as they arrive
            parts, whole = self._taken("all_gather", array)
            return whole.view(array.dtype).reshape(sum(len(part) for part in parts), *array.shape[1:])
        return np.concatenate(self._gathered("all_gather", array), axis)

    def reduce_scatter(self, array: Array, lengths: Sequence[int], axis: int = 0) -> Array:
        """As Ranks says."""
        assert len(lengths) == self.size and sum(lengths) == array.shape[axis], (lengths, array.shape)
        self.board.begin("reduce_scatter")
        parts = np.split(array, np.cumsum(lengths)[:-1], axis)
        if axis == 0:  # the parts lie one behind the other already
            flat = np.ascontiguousarray(array).reshape(-1)
        else:
            flat = np.concatenate([part.reshape(-1) for part in parts])
        own = self._own_sum("reduce_scatter", flat, [part.size for part in parts])
        return own.reshape(parts[self.rank].shape)

    def all_to_all(self, parts: Sequence[Array]) -> list[Array]:
        """As Ranks says."""
        assert len(parts) == self.size, (len(parts), self.size)
        self.board.begin("all_to_all")
        own = np.array([_header(np.asarray(part)) for part in parts])
        headers = np.empty_like(own)
        self._wait("all_to_all", self.comm.Ialltoall(own, headers))
        taken = [_empty(header) for header in headers]
        data = np.concatenate([_bytes(np.asarray(part)) for part in parts])
        whole = np.empty(sum(part.nbytes for part in taken), np.uint8)
        outgoing, incoming = [np.asarray(part).nbytes for part in parts], [part.nbytes for part in taken]
        self._wait("all_to_all", self.comm.Ialltoallv([data, outgoing], [whole, incoming]))
        return _filled(taken, whole)

    def broadcast(self, array: Array | None, root: int = 0) -> Array:
        """As Ranks says."""
        self.board.begin("broadcast")
        header = np.zeros(AXES + 2, np.int64)
        if self.rank == root:
            assert array is not None, "the root gives one"
            header = _header(np.asarray(array))
        self._wait("broadcast", self.comm.Ibcast(header, root))
        result = np.array(array, order="C") if self.rank == root else _empty(header)
        self._wait("broadcast", self.comm.Ibcast(_bytes(result), root))
        return result

    def send(self, array: Array, to: int, tag: int) -> None:
        """As Ranks says: what is sent is copied first."""
        self.board.begin("send")
        message = np.concatenate([_bytes(_header(np.asarray(array))), _bytes(np.asarray(array))])
        self.sent = [(request, held) for request, held in self.sent if not request.Test()]
        self.sent.append((self.comm.Isend(message, to, tag), message))

    def receive(self, source: int, tag: int) -> Array:
        """As Ranks says."""
        from mpi4py import MPI

        self.board.begin("receive")
        status = MPI.Status()
        found: list[Any] = []

        def arrived() -> bool:
            found[:] = [self.comm.Improbe(source, tag, status)]
            return found[0] is not None

        self.board.wait(arrived, f"receive of tag {tag}", [self.members[source]])
        message = np.empty(status.Get_count(MPI.BYTE), np.uint8)
        self._wait("receive", found[0].Irecv(message))
        ends = 8 * (AXES + 2)
        return _filled([_empty(message[:ends].view(np.int64))], message[ends:])[0]

    def gather_texts(self, text: str) -> list[str]:
        """As Ranks says."""
        self.board.begin("gather_texts")
        data = np.frombuffer(text.encode("utf-8", "surrogatepass"), np.uint8)
        parts = self._gathered("gather_texts", data)
        return [part.tobytes().decode("utf-8", "surrogatepass") for part in parts]

    def barrier(self) -> None:
        """As Ranks says; what was written to windows before it is read after it."""
        self._together("barrier")

    def split(self, group: int) -> Ranks:
        """As Ranks says."""
        self._together("split")  # so that the call that blocks finds everybody there
        return MpiRanks(self.comm.Split(group, self.rank), self.board)

    def window(self, n: int, dtype: DTypeLike) -> list[Array] | None:
        """As Ranks says: None unless all ranks are on one host."""
        self._together("window")
        if any(member not in self.board.states for member in self.members):
            return None
        window, arrays = _shared(self.comm, n, dtype)
        self.windows.append(window)
        return arrays

    def _together(self, call: str) -> None:
        """Wait for all ranks."""
        self.board.begin(call)
        for window in self.windows:
            window.Sync()
        self._wait(call, self.comm.Ibarrier())
        for window in self.windows:
            window.Sync()

    def _wait(self, call: str, request: Any) -> None:
        self.board.wait(request.Test, call, self.members)

    def _gathered(self, call: str, array: Array) -> list[Array]:
        """The arrays of all ranks, of whatever shapes, in their order."""
        return _filled(*self._taken(call, array))

    def _taken(self, call: str, array: Array) -> tuple[list[Array], NDArray[np.uint8]]:
        """Arrays of the shapes that all ranks have, to be filled, and the bytes of all of them."""
        headers = np.empty((self.size, AXES + 2), np.int64)
        self._wait(call, self.comm.Iallgather(_header(array), headers))
        parts = [_empty(header) for header in headers]
        whole = np.empty(sum(part.nbytes for part in parts), np.uint8)
        self._wait(call, self.comm.Iallgatherv(_bytes(array), [whole, [part.nbytes for part in parts]]))
        return parts, whole

    def _own_sum(self, call: str, flat: Array, lengths: Sequence[int]) -> Array:
        """Of the sum of arrays (N,) of all ranks, cut alike, this rank's part.

        It is added up some numbers at a time: fresh memory of the size of a model costs more than messages.
        """
        begins = [0, *itertools.accumulate(lengths)]
        result = np.empty(lengths[self.rank], flat.dtype)
        taken = np.empty((self.size, min(AT_ONCE, max(1, *lengths))), flat.dtype)
        for at in range(0, max(lengths), AT_ONCE):
            requests, parts = [], []
            for rank, length in enumerate(lengths):
                own = flat[begins[self.rank] + at : begins[self.rank] + min(at + AT_ONCE, lengths[self.rank])]
                theirs = flat[begins[rank] + at : begins[rank] + min(at + AT_ONCE, length)]
                if rank == self.rank:
                    parts.append(own)
                    continue
                if at < lengths[self.rank]:
                    parts.append(taken[rank, : len(own)])
                    requests.append(self.comm.Irecv(_bytes(parts[-1]), rank, SUM))
                if at < length:
                    requests.append(self.comm.Isend(_bytes(theirs), rank, SUM))
            self.board.wait(functools.partial(_all_done, requests), call, self.members)
            if at < lengths[self.rank]:
                result[at : at + AT_ONCE] = tree_sum(parts)
        return result


def _all_done(requests: list[Any]) -> bool:
    from mpi4py import MPI

    return bool(MPI.Request.Testall(requests))


def _header(array: Array) -> Array:
    """The dtype, the axes and the lengths of an array, as integers."""
    assert array.ndim <= AXES, array.shape
    lengths = [*array.shape, *[0] * (AXES - array.ndim)]
    return np.array([ord(array.dtype.char), array.ndim, *lengths], np.int64)


def _empty(header: Array) -> Array:
    """An array as a header says, of whatever numbers."""
    kind, ndim, *lengths = header.tolist()
    return np.empty(lengths[:ndim], chr(kind))


def _bytes(array: Array) -> NDArray[np.uint8]:
    """The bytes of an array, a view of it where it is contiguous."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def _filled(arrays: list[Array], data: NDArray[np.uint8]) -> list[Array]:
    """Fill arrays with bytes, one after the other."""
    begin = 0
    for array in arrays:
        _bytes(array)[:] = data[begin : begin + array.nbytes]
        begin += array.nbytes
    return arrays


def threads_of(ranks: Ranks) -> int | None:
    """How many threads a rank computes with: its share of the cores that it may use; None on its own."""
    if ranks.size == 1:
        return None
    cores = (
        sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    )
    places = ranks.gather_texts(f"{platform.node()} {list(cores)}")
    return max(1, len(cores) // places.count(places[ranks.rank]))
