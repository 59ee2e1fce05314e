"""Tasks on Numba's threads, written in LLVM's IR: what prange would do, in less time to compile."""

import ctypes
import os
import platform

import llvmlite.binding
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

AWAKE = 1 << 10  # turns of waiting between two phases before other threads are given way


def _register():
    """Give what lets other threads run a name for compiled code."""
    function = ctypes.windll.kernel32.SwitchToThread if os.name == "nt" else ctypes.CDLL(None).sched_yield
    llvmlite.binding.add_symbol("numgpt_give_way", ctypes.cast(function, ctypes.c_void_p).value)


_register()


@intrinsic
def spread(typing, task, phases, threads, args):
    """task(i, *args) for i in 0 … phases − 1 on Numba's threads; returns whether one of them failed.

    phases may be a tuple: task(phase, i, *args) for i in 0 … phases[phase] − 1, each phase when all of the
    one before is done.
    Each thread begins with its own part, the same for every kernel with as many tasks: what a thread wrote is
    still in its cache. When that is done it helps the others. What prange would do, in less time to compile:
    benchmarks/train_step.py prints it.
    """
    several = isinstance(phases, types.BaseTuple)
    call = task.get_call_type(typing, (*[types.intp] * (1 + several), *args.types), {})

    def codegen(context, builder, signature, values):
        _, phases_value, threads, packed = values
        intp, pointer = context.get_value_type(types.intp), cgutils.voidptr_t
        totals = cgutils.unpack_tuple(builder, phases_value) if several else [phases_value]
        count = intp(len(totals))
        totals_of, done_of = (
            builder.alloca(intp, count),
            builder.alloca(intp, count),
        )  # for each phase its tasks, and those that are done
        apart = intp(
            8
        )  # so many numbers fill a line of the cache: threads that count in one line wait for each other
        next_of = builder.alloca(
            intp, builder.mul(builder.mul(threads, count), apart)
        )  # for each phase and each thread's part its next task

        def begin(builder, i, tasks, threads):
            return builder.sdiv(builder.mul(i, tasks), threads)

        for phase, total in enumerate(totals):
            builder.store(total, builder.gep(totals_of, [intp(phase)]))
            builder.store(intp(0), builder.gep(done_of, [intp(phase)]))
            with cgutils.for_range(builder, threads) as loop:
                place = builder.add(builder.mul(intp(phase), threads), loop.index)
                builder.store(
                    begin(builder, loop.index, total, threads),
                    builder.gep(next_of, [builder.mul(place, apart)]),
                )
        state = cgutils.pack_struct(
            builder,
            [threads, totals_of, done_of, next_of, intp(0), _borrowed(context, builder, args, packed)],
        )
        state_type, state = state.type, cgutils.alloca_once_value(builder, state)

        # void worker(char **args, size_t *dims, size_t *steps, void *state), as the thread pool calls it.
        worker_type = ir.FunctionType(ir.VoidType(), [pointer.as_pointer()] + [pointer] * 3)
        worker = ir.Function(builder.module, worker_type, builder.module.get_unique_name("worker"))
        worker.linkage = "internal"
        inner = ir.IRBuilder(worker.append_basic_block("entry"))
        shared = inner.bitcast(worker.args[3], state_type.as_pointer())
        team, total_at, done_at, next_at, failed, arrays = (
            cgutils.gep_inbounds(inner, shared, 0, i) for i in range(6)
        )
        team, total_at, done_at, next_at, arrays = map(inner.load, (team, total_at, done_at, next_at, arrays))
        arrays = [inner.extract_value(arrays, i) for i in range(len(args.types))]
        own, mine = inner.ptrtoint(inner.load(worker.args[0]), intp), inner.alloca(intp)
        with cgutils.for_range(inner, count) as phase:
            total, finished = (
                inner.load(inner.gep(total_at, [phase.index])),
                inner.gep(done_at, [phase.index]),
            )
            inner.store(intp(0), mine)
            with cgutils.for_range(inner, team) as loop:
                part = inner.srem(inner.add(own, loop.index), team)
                counter = inner.gep(
                    next_at, [inner.mul(inner.add(inner.mul(phase.index, team), part), apart)]
                )
                end = begin(inner, inner.add(part, intp(1)), total, team)
                again, run, done = map(inner.append_basic_block, ("again", "run", "done"))
                inner.branch(again)
                inner.position_at_end(again)
                i = inner.atomic_rmw("add", counter, intp(1), "monotonic")
                inner.cbranch(inner.icmp_signed("<", i, end), run, done)
                inner.position_at_end(run)
                context.add_linking_libs(context.get_function(task, call).libs)
                description = task.dispatcher.overloads[call.args].fndesc
                function = context.declare_function(builder.module, description)
                indices = [phase.index, i] if several else [i]
                status, _ = context.call_conv.call_function(
                    inner, function, description.restype, description.argtypes, [*indices, *arrays]
                )
                with inner.if_then(status.is_error):
                    inner.store(intp(1), failed)
                inner.store(inner.add(inner.load(mine), intp(1)), mine)
                inner.branch(again)
                inner.position_at_end(done)
            if several:
                inner.atomic_rmw("add", finished, inner.load(mine), "release")
                _wait(inner, finished, total)
        inner.ret_void()

        # void numba_parallel_for(worker, args, dims, steps, state, inner dims, number of args, threads): a
        # call of worker for each of dims[0] = threads, with *args moved on by *steps, here an address that
        # counts the calls.
        pool_type = ir.FunctionType(ir.VoidType(), [pointer] * 5 + [intp] * 3)
        pool = cgutils.get_or_insert_function(builder.module, pool_type, "numba_parallel_for")
        first = cgutils.alloca_once_value(builder, ir.Constant(pointer, None))
        dims, steps = cgutils.alloca_once_value(builder, threads), cgutils.alloca_once_value(builder, intp(1))
        raw = [builder.bitcast(x, pointer) for x in (dims, steps, state)]
        get_threads = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(intp, []), "get_num_threads"
        )
        set_threads = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(ir.VoidType(), [intp]), "set_num_threads"
        )
        with builder.if_else(builder.icmp_signed(">", threads, intp(1))) as (many, one):
            with many:  # the pool leaves its number of threads behind for the caller's own prange
                before = builder.call(get_threads, [])
                builder.call(
                    pool,
                    [
                        builder.bitcast(worker, pointer),
                        builder.bitcast(first, pointer),
                        *raw,
                        intp(0),
                        intp(1),
                        threads,
                    ],
                )
                builder.call(set_threads, [before])
            with one:
                builder.call(worker, [first, *raw])
        return builder.load(cgutils.gep_inbounds(builder, state, 0, 4))

    return types.intp(task, phases, types.intp, args), codegen


def _borrowed(context, builder, kind, value):
    """Arrays without their count of references, which the caller holds: else every slice in a task counts,
    and threads wait for each other.
    """
    if isinstance(kind, types.BaseTuple):
        return context.make_tuple(
            builder,
            kind,
            [_borrowed(context, builder, k, v) for k, v in zip(kind, cgutils.unpack_tuple(builder, value))],
        )
    if not isinstance(kind, types.Array):
        return value
    array = context.make_array(kind)(context, builder, value)
    array.meminfo = cgutils.get_null_value(array.meminfo.type)
    return array._getvalue()


def _wait(builder, counter, total):
    """Wait until a counter has come to total, awake for some microseconds, then giving way to other threads.

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
        builder.call(
            cgutils.get_or_insert_function(
                builder.module, ir.FunctionType(ir.VoidType(), []), "llvm.x86.sse2.pause"
            ),
            [],
        )
    builder.cbranch(builder.icmp_signed("<", before, intp(AWAKE)), test, give_way)
    builder.position_at_end(give_way)
    builder.call(
        cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(ir.IntType(32), []), "numgpt_give_way"
        ),
        [],
    )
    builder.branch(test)
    builder.position_at_end(out)
