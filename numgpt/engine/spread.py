"""Tasks on Numba's threads, written in LLVM's IR: what prange would do, in less time to compile.

In C, with `phases` phases, the task number i of phase p called task(p, i, args), and threads > 0:

    struct State { intp threads; intp *tasks, *done, *next; intp failed; Args args; };

    void worker(char **args, size_t *dims, size_t *steps, void *state)
    {
        State *s = state;
        intp own = (intp)args[0];                                // the number of this thread
        for (intp p = 0; p < phases; p++) {
            intp ran = 0;
            for (intp n = 0; n < s->threads; n++) {              // its own part, then those of the others
                intp part = (own + n) % s->threads;
                intp *next = &s->next[(p * s->threads + part) * APART], i;
                intp end = (part + 1) * s->tasks[p] / s->threads;
                while ((i = atomic_fetch_add(next, 1)) < end) {
                    if (task(p, i, s->args) failed)
                        s->failed = 1;
                    ran++;
                }
            }
            atomic_fetch_add(&s->done[p], ran);                  // not where phases is a number, one phase
            wait(&s->done[p], s->tasks[p]);
        }
    }

    intp spread(tasks, threads, args)
    {
        intp done[phases] = {0}, next[phases * threads * APART];
        for (intp p = 0; p < phases; p++)
            for (intp part = 0; part < threads; part++)
                next[(p * threads + part) * APART] = part * tasks[p] / threads;
        State state = {threads, tasks, done, next, 0, args};
        if (threads > 1)
            numba_parallel_for(worker, …, &state, …);            // a call of worker on each thread
        else
            worker(…, &state);
        return state.failed;
    }
"""

import contextlib
import ctypes
import os
import platform
from typing import Any, NamedTuple

import llvmlite.binding
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

AWAKE = 1 << 10  # turns of waiting between two phases before other threads are given way
APART = 8  # numbers that fill a line of the cache: threads that count in one line wait for each other


def _register():
    """Give what lets other threads run a name for compiled code."""
    function = ctypes.windll.kernel32.SwitchToThread if os.name == "nt" else ctypes.CDLL(None).sched_yield
    llvmlite.binding.add_symbol("numgpt_give_way", ctypes.cast(function, ctypes.c_void_p).value)


_register()


class State(NamedTuple):
    """The struct that the threads share, field by field: its values, or in the worker their addresses."""

    threads: Any
    tasks: Any  # for each phase how many there are, and how many are done
    done: Any
    next: Any  # for each phase and each thread's part the next task; APART numbers from one to the next
    failed: Any
    args: Any


@intrinsic
def spread(typing, task, phases, threads, args):
    """task(i, *args) for i in 0 … phases − 1 on Numba's threads; returns whether one of them failed.

    phases may be a tuple: task(phase, i, *args) for i in 0 … phases[phase] − 1, each phase when all of the
    one before is done.
    Each thread begins with its own part, the same for every kernel with as many tasks: what a thread wrote is
    still in its cache. When that is done it helps the others. benchmarks/train_step.py prints the time that
    kernels take to compile.
    """
    several = isinstance(phases, types.BaseTuple)
    call = task.get_call_type(typing, (*[types.intp] * (1 + several), *args.types), {})

    def codegen(context, builder, signature, values):
        _, phases_value, threads, packed = values
        totals = cgutils.unpack_tuple(builder, phases_value) if several else [phases_value]
        state = _new_state(builder, totals, threads, _borrowed(context, builder, args, packed))

        def run_task(inner, phase, i, arguments):
            """Call the task in the worker; returns whether it failed."""
            context.add_linking_libs(context.get_function(task, call).libs)
            description = task.dispatcher.overloads[call.args].fndesc
            function = context.declare_function(builder.module, description)
            indices = [phase, i] if several else [i]
            status, _ = context.call_conv.call_function(
                inner, function, description.restype, description.argtypes, [*indices, *arguments]
            )
            return status.is_error

        worker = _worker(builder.module, state.type, len(totals), several, run_task)
        _start(builder, worker, state, threads)
        failed = State._fields.index("failed")
        return builder.load(cgutils.gep_inbounds(builder, state, 0, failed))

    return types.intp(task, phases, types.intp, args), codegen


def _new_state(builder, totals, threads, args):
    """The address of a State before the first task; totals: for each phase how many tasks there are."""
    intp = threads.type
    count = intp(len(totals))
    tasks, done = builder.alloca(intp, count), builder.alloca(intp, count)
    following = builder.alloca(intp, builder.mul(builder.mul(threads, count), intp(APART)))
    for phase, total in enumerate(totals):
        builder.store(total, builder.gep(tasks, [intp(phase)]))
        builder.store(intp(0), builder.gep(done, [intp(phase)]))
        with cgutils.for_range(builder, threads) as loop:
            place = builder.add(builder.mul(intp(phase), threads), loop.index)
            first = _first_task(builder, loop.index, total, threads)
            builder.store(first, builder.gep(following, [builder.mul(place, intp(APART))]))
    state = State(threads, tasks, done, following, intp(0), args)
    return cgutils.alloca_once_value(builder, cgutils.pack_struct(builder, state))


def _first_task(builder, part, total, threads):
    """The first task of a thread's part."""
    return builder.sdiv(builder.mul(part, total), threads)


def _worker(module, state_type, count, several, run_task):
    """The function that runs on each thread, as Numba's thread pool calls it."""
    pointer = cgutils.voidptr_t
    kind = ir.FunctionType(ir.VoidType(), [pointer.as_pointer()] + [pointer] * 3)
    worker = ir.Function(module, kind, module.get_unique_name("worker"))
    worker.linkage = "internal"
    builder = ir.IRBuilder(worker.append_basic_block("entry"))
    shared = builder.bitcast(worker.args[3], state_type)
    at = State(*(cgutils.gep_inbounds(builder, shared, 0, i) for i in range(len(State._fields))))
    threads, tasks, done, following, arguments = map(
        builder.load, (at.threads, at.tasks, at.done, at.next, at.args)
    )
    arguments, intp = cgutils.unpack_tuple(builder, arguments), threads.type
    own, ran = builder.ptrtoint(builder.load(worker.args[0]), intp), builder.alloca(intp)
    with cgutils.for_range(builder, intp(count)) as phase:
        total = builder.load(builder.gep(tasks, [phase.index]))
        finished = builder.gep(done, [phase.index])
        builder.store(intp(0), ran)
        with cgutils.for_range(builder, threads) as loop:
            part = builder.srem(builder.add(own, loop.index), threads)
            place = builder.add(builder.mul(phase.index, threads), part)
            counter = builder.gep(following, [builder.mul(place, intp(APART))])
            end = _first_task(builder, builder.add(part, intp(1)), total, threads)
            with _each_task(builder, counter, end) as i:
                with builder.if_then(run_task(builder, phase.index, i, arguments)):
                    builder.store(intp(1), at.failed)
                builder.store(builder.add(builder.load(ran), intp(1)), ran)
        if several:
            builder.atomic_rmw("add", finished, builder.load(ran), "release")
            _wait(builder, finished, total)
    builder.ret_void()
    return worker


@contextlib.contextmanager
def _each_task(builder, counter, end):
    """A loop over the tasks of a part that no other thread has begun."""
    again, run, out = map(builder.append_basic_block, ("again", "run", "done"))
    builder.branch(again)
    builder.position_at_end(again)
    i = builder.atomic_rmw("add", counter, end.type(1), "monotonic")
    builder.cbranch(builder.icmp_signed("<", i, end), run, out)
    builder.position_at_end(run)
    yield i
    builder.branch(again)
    builder.position_at_end(out)


def _start(builder, worker, state, threads):
    """Run the worker on so many threads.

    void numba_parallel_for(worker, args, dims, steps, state, inner dims, number of args, threads) calls the
    worker for each of dims[0] = threads, with *args moved on by *steps: an address that counts the calls.
    """
    intp, pointer = threads.type, cgutils.voidptr_t
    pool_type = ir.FunctionType(ir.VoidType(), [pointer] * 5 + [intp] * 3)
    pool = cgutils.get_or_insert_function(builder.module, pool_type, "numba_parallel_for")
    first = cgutils.alloca_once_value(builder, ir.Constant(pointer, None))
    dims = cgutils.alloca_once_value(builder, threads)
    steps = cgutils.alloca_once_value(builder, intp(1))
    raw = [builder.bitcast(x, pointer) for x in (dims, steps, state)]
    get_threads = _declared(builder, "get_num_threads", intp)
    set_threads = _declared(builder, "set_num_threads", ir.VoidType(), intp)
    with builder.if_else(builder.icmp_signed(">", threads, intp(1))) as (many, one):
        with many:  # the pool leaves its number of threads behind for the caller's own prange
            before = builder.call(get_threads, [])
            workers = [builder.bitcast(worker, pointer), builder.bitcast(first, pointer), *raw]
            builder.call(pool, [*workers, intp(0), intp(1), threads])
            builder.call(set_threads, [before])
        with one:
            builder.call(worker, [first, *raw])


def _declared(builder, name, returned, *arguments):
    """A function of another library, by its name."""
    return cgutils.get_or_insert_function(builder.module, ir.FunctionType(returned, arguments), name)


def _borrowed(context, builder, kind, value):
    """Arrays without their count of references, which the caller holds.

    Else every slice in a task would count, and threads would wait for each other at the counter.
    """
    if isinstance(kind, types.BaseTuple):
        parts = zip(kind, cgutils.unpack_tuple(builder, value))
        return context.make_tuple(builder, kind, [_borrowed(context, builder, k, v) for k, v in parts])
    if not isinstance(kind, types.Array):
        return value
    array = context.make_array(kind)(context, builder, value)
    array.meminfo = cgutils.get_null_value(array.meminfo.type)
    return array._getvalue()


def _wait(builder, counter, total):
    """Wait until a counter has come to total: awake for some microseconds, then giving way to other threads.

    It waits only for tasks that a thread has begun, so it ends however many of the pool's threads there
    really are.
    """
    intp = total.type
    turns = cgutils.alloca_once_value(builder, intp(0))
    test, more, give_way, out = map(builder.append_basic_block, ("test", "more", "give_way", "out"))
    builder.branch(test)
    builder.position_at_end(test)
    builder.cbranch(builder.icmp_signed("<", builder.load_atomic(counter, "acquire", 8), total), more, out)
    builder.position_at_end(more)
    before = builder.load(turns)
    builder.store(builder.add(before, intp(1)), turns)
    if platform.machine() in ("x86_64", "AMD64"):
        builder.call(_declared(builder, "llvm.x86.sse2.pause", ir.VoidType()), [])
    builder.cbranch(builder.icmp_signed("<", before, intp(AWAKE)), test, give_way)
    builder.position_at_end(give_way)
    builder.call(_declared(builder, "numgpt_give_way", ir.IntType(32)), [])
    builder.branch(test)
    builder.position_at_end(out)
