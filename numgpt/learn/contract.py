"""The contract of a student's function: it runs, returns what was asked for, and leaves arguments alone."""

from __future__ import annotations

import copy
import inspect
import linecache
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from .exercise import Array, Case, Exercise
from .verdict import Finding


class Outcome(NamedTuple):
    """The results of a call by name, and what was found; no results where there is nothing to judge."""

    results: dict[str, Array]
    findings: list[Finding]


def call(exercise: Exercise, function: Callable[..., Any], case: Case) -> Outcome:
    """Call a student's function twice, on copies of the arguments, and hold it to the contract."""
    misfit = _signature(exercise, function, len(case.arguments))
    if misfit:
        return Outcome({}, [misfit])
    arguments = copy.deepcopy(case.arguments)
    try:
        with np.errstate(all="ignore"):
            returned = copy.deepcopy(function(*arguments))
            names = list(inspect.signature(exercise.solution).parameters)
            changed = _changed(case.arguments, arguments, names)
            again = function(*copy.deepcopy(case.arguments))
    except NotImplementedError:
        says = f"{exercise.fill} is not written yet: it raises NotImplementedError"
        return Outcome({}, [Finding("NOT_WRITTEN", says)])
    except (Exception, SystemExit) as error:
        return Outcome({}, [_raised(exercise, function, error)])
    results, findings = _results(exercise, returned)
    if changed:
        says = f"{exercise.fill} changed its argument {changed}, which the caller still needs: work on a copy"
        findings.append(Finding("ARGUMENT_CHANGED", says, numbers={"argument": changed}))
    if not findings:
        findings += _repeated(exercise, results, again)
    return Outcome(results if not findings else {}, findings)


def _signature(exercise: Exercise, function: Callable[..., Any], given: int) -> Finding | None:
    """A finding where the function cannot be called with so many arguments."""
    try:
        signature = inspect.signature(function)
        signature.bind(*[None] * given)
    except ValueError:  # a builtin
        return None
    except TypeError:
        expected = ", ".join(list(inspect.signature(exercise.solution).parameters)[:given])
        says = f"{exercise.fill} takes {signature}, expected ({expected})"
        return Finding("SIGNATURE", says)
    return None


def _raised(exercise: Exercise, function: Callable[..., Any], error: BaseException) -> Finding:
    """The finding of an exception: what it says, and the student's line that raised it."""
    file = getattr(getattr(function, "__code__", None), "co_filename", None)
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == file]
    line = frames[-1].lineno if frames else None
    text = linecache.getline(file, line).strip() if file and line else ""
    where = f" in line {line}, {text}" if text else ""
    says = f"{exercise.fill} raised {type(error).__name__}{where}: {message_of(error)}"
    return Finding("RAISED", says, numbers={"error": type(error).__name__, "line": line})


def message_of(error: BaseException) -> str:
    """The first line of what an error says; a student's error may say anything, or raise when it is asked."""
    try:
        lines = str(error).splitlines()
    except Exception:  # it is the student's
        lines = []
    return lines[0][:300] if lines else "without a message"


def _results(exercise: Exercise, returned: Any) -> tuple[dict[str, Array], list[Finding]]:
    """What was returned, by name, and what is wrong with it."""
    names = list(exercise.gradients)
    expected = f"expected {', '.join(names)}" + (" in this order" if len(names) > 1 else "")
    if returned is None:
        says = f"{exercise.fill} returned None, {expected}: is a return missing?"
        return {}, [Finding("RETURNED_NOTHING", says)]
    if isinstance(returned, Mapping):
        if set(returned) != set(names):
            given = ", ".join(map(str, returned)) or "nothing"
            return {}, [Finding("COUNT", f"{exercise.fill} returned {given}, {expected}")]
        parts = [returned[name] for name in names]
    elif isinstance(returned, tuple | list):
        parts = list(returned)
    else:
        parts = [returned]
    if len(parts) != len(names):
        says = f"{exercise.fill} returned {len(parts)} results, {expected}"
        return {}, [Finding("COUNT", says, numbers={"got": len(parts), "want": len(names)})]
    findings = list(_no_floats(exercise, dict(zip(names, parts))))
    return ({} if findings else {n: np.asarray(p) for n, p in zip(names, parts)}), findings


def _no_floats(exercise: Exercise, parts: dict[str, Any]) -> Iterator[Finding]:
    """A finding for each result that is no array of finite numbers in float64."""
    for name, part in parts.items():
        if part is None:
            yield Finding("RETURNED_NOTHING", f"{name} is None, expected an array", name)
            continue
        try:
            array = np.asarray(part)
        except ValueError:  # lists of unequal length
            array = np.empty(0, object)
        if array.dtype.kind not in "fiub" or (array.dtype.kind != "f" and not np.isscalar(part)):
            says = f"{name} has dtype {array.dtype}, expected float64: gradients are no integers"
            yield Finding("DTYPE", says, name, {"got": str(array.dtype)})
        elif array.dtype.kind == "f" and array.dtype != np.float64:
            says = f"{name} is {array.dtype}, expected float64 as the arguments are: where is it rounded?"
            yield Finding("DTYPE", says, name, {"got": str(array.dtype)})
        elif not np.isfinite(array).all():
            index = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
            place = f"{name}[{', '.join(map(str, index))}]" if index else name
            says = f"{place} is {array[index]}, expected finite numbers: x/0, or √ of less than 0?"
            yield Finding("NOT_FINITE", says, name, {"index": list(index)})


def _repeated(exercise: Exercise, results: dict[str, Array], again: Any) -> list[Finding]:
    """A finding where the second call with the same arguments gave something else."""
    other, findings = _results(exercise, again)
    same = not findings and all(
        np.array_equal(results[name], other[name]) and results[name].shape == other[name].shape
        for name in results
    )
    says = (
        f"{exercise.fill} gave another result when it was called again with the same arguments: does it keep"
        " something between calls, or draw random numbers?"
    )
    return [] if same else [Finding("NOT_REPEATABLE", says)]


def _changed(before: Any, after: Any, names: list[str], name: str = "") -> str:
    """The name of the first array that a call changed; "" for none."""
    if isinstance(before, tuple | list):
        parts = [f"{name}[{i}]" for i in range(len(before))] if name else names
        changes = (_changed(b, a, names, n) for b, a, n in zip(before, after, parts))
        return next(filter(None, changes), "")
    if isinstance(before, dict):
        changes = (_changed(before[k], after.get(k), names, f"{name}[{k!r}]") for k in before)
        return next(filter(None, changes), "")
    if isinstance(before, np.ndarray):
        return "" if np.array_equal(before, after, equal_nan=before.dtype.kind == "f") else name
    return ""
