"""The judge of a student's function: its contract, its shapes, its terms, and what explains a wrong one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from . import contract, maps, shapes
from . import terms as of_terms
from .exercise import Array, Case, Exercise, Values
from .variants import diagnose
from .verdict import Finding, Judged, Report, Witnessed

SQUARE = 5  # the size of every axis, where a function does not run with different ones
STEP = 1e-5  # of the witness's differences


def judge(
    exercise: Exercise, function: Callable[..., Any], forward: Callable[..., Any] | None = None
) -> Report:
    """The report on a student's function; forward: the student's own, which the witness differentiates.

    The first case has prime sizes, so that each factor is known by its value; then come other sizes, which a
    number written out, such as 7 for C, does not fit. What fails first is what is told.
    """
    report = None
    for number, sizes in enumerate(_sizes(exercise)):
        case = _case(exercise, sizes)
        if number:  # a size that was written out is a number by its own name
            first = {str(size): float(size) for size in exercise.sizes.values()}
            case = dataclasses.replace(case, numbers={**case.numbers, **first})
        notes = (
            [f"with {_listed(sizes)}, after it was right with {_listed(exercise.sizes)}"] if number else []
        )
        if number == 0:
            notes += _changed_forward(exercise, forward, case)
        report = _judged(exercise, function, forward, case, notes)
        if not report.right:
            return report
    assert report is not None
    notes = _changed_forward(exercise, forward, _case(exercise, exercise.sizes))
    findings = tuple(_probed(exercise, function))
    return Report(exercise.name, exercise.fill, report.gradients, findings, tuple(notes))


def _sizes(exercise: Exercise) -> Iterator[Mapping[str, int]]:
    """The sizes of the cases, in their order."""
    yield exercise.sizes
    yield {letter: size + 3 for letter, size in exercise.sizes.items()}
    yield smallest(exercise)


def smallest(exercise: Exercise) -> dict[str, int]:
    """The sizes of the smallest case that can fail."""
    return {letter: {"B": 1, "T": 2}.get(letter, 3) for letter in exercise.sizes} | dict(exercise.smallest)


def _listed(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{letter} {size}" for letter, size in sizes.items())


def _case(exercise: Exercise, sizes: Mapping[str, int]) -> Case:
    return exercise.case(np.random.default_rng(len(sizes)), **sizes)


def _changed_forward(exercise: Exercise, forward: Callable[..., Any] | None, case: Case) -> list[str]:
    """A note where the student's forward is not that of the exercise."""
    if forward is None or exercise.forward is None or case.loss is None:
        return []
    try:
        theirs = case.loss(forward, case.inputs)
    except Exception:  # it is the student's
        theirs = float("nan")
    if np.isclose(theirs, case.loss(exercise.forward, case.inputs), rtol=1e-9):
        return []
    return [f"{exercise.forward.__name__} was changed in your file: the exercise's own is what counts here"]


def _probed(exercise: Exercise, function: Callable[..., Any]) -> Iterator[Finding]:
    """The findings of the exercise's own questions."""
    for probe in exercise.probes:
        try:
            with np.errstate(all="ignore"):
                says = probe.ask(function)
        except Exception as error:  # whatever a student's function raises
            says = f"{exercise.fill} raised {type(error).__name__} there: {contract.message_of(error)}"
        if says:
            yield Finding(f"{exercise.prefix}_{probe.key}", says)
            return  # what is asked later may fail for the same reason


def _judged(
    exercise: Exercise,
    function: Callable[..., Any],
    forward: Callable[..., Any] | None,
    case: Case,
    notes: list[str],
) -> Report:
    """The report on one case."""
    outcome = contract.call(exercise, function, case)
    if not outcome.results:
        square = _square(exercise, function, outcome.findings)
        if square is not None:
            return square
        return Report(exercise.name, exercise.fill, (), tuple(outcome.findings), tuple(notes))
    terms = exercise.terms(case.values)
    expected = {name: of_terms.wanted(terms[name]) for name in exercise.gradients}
    swapped = shapes.in_another_order(exercise, outcome.results, expected)
    if swapped is not None:
        return Report(exercise.name, exercise.fill, (), (swapped,), tuple(notes))
    gradients: dict[str, Judged] = {}
    values = case.values
    for name, result in outcome.results.items():
        before = exercise.after.get(name, ())
        if any(outcome.results[n].shape != expected[n].shape for n in before):
            gradients[name] = Judged(name, "not judged")
            continue
        own = values.but(**{n: outcome.results[n] for n in before})
        wrong_before = any(gradients[n].word != "ok" for n in before)
        judged = _gradient(exercise, name, result, case, own, wrong_before)
        if wrong_before and _is_unknown(judged):
            right = _gradient(exercise, name, result, case, values, False).word == "ok"
            judged = Judged(name, "ok" if right else "not judged")
        gradients[name] = judged
    shown = tuple(
        _witnessed(exercise, function, forward, case, g, outcome.results) for g in gradients.values()
    )
    return Report(exercise.name, exercise.fill, shown, (), tuple(notes))


def _square(exercise: Exercise, function: Callable[..., Any], findings: list[Finding]) -> Report | None:
    """The report on a case whose axes are all of one size, where shapes alone kept the function from running.

    None where it does not run there either, or is right there.
    """
    if [f.numbers.get("error") for f in findings] not in (["ValueError"], ["IndexError"]):
        return None
    try:
        case = _case(exercise, dict.fromkeys(exercise.sizes, SQUARE))
        report = _judged_alone(exercise, function, case)
    except Exception:  # an exercise may have no such case
        return None
    if report is None or report.right or any(code.endswith("_UNKNOWN") for code in report.codes):
        return None
    note = f"{findings[0].says}. It runs where all axes have the size {SQUARE}, and is judged there"
    return Report(report.exercise, report.function, report.gradients, report.findings, (note,))


def _judged_alone(exercise: Exercise, function: Callable[..., Any], case: Case) -> Report | None:
    """_judged for a case that has no other to fall back on."""
    if not contract.call(exercise, function, case).results:
        return None
    return _judged(exercise, function, None, case, [])


def _is_unknown(judged: Judged) -> bool:
    """Whether a result is wrong, and no mistake explains it."""
    return any(f.code.endswith(("_UNKNOWN", "_SCALED", "_INEXACT")) for f in judged.findings)


def _gradient(exercise: Exercise, name: str, got: Array, case: Case, values: Values, own: bool) -> Judged:
    """The verdict on one result; own: whether what it is computed from is the student's, and wrong."""
    terms = exercise.terms(values)[name]
    expected = of_terms.wanted(terms)
    findings: tuple[Finding, ...] = ()
    if got.shape != expected.shape:
        fitted = shapes.fitted(exercise, name, got, expected, case.numbers)
        findings = (fitted.finding,)
        if fitted.array is None:
            return Judged(name, "WRONG", findings=findings)
        got = fitted.array
    difference, ulps = of_terms.rounding(got, terms)
    if ulps <= of_terms.ROUNDINGS:
        word = "follows" if own else "ok"
        return Judged(name, "WRONG" if findings else word, ulps, difference, findings)
    diagnosis = diagnose(exercise, name, got, case, values)
    if diagnosis is not None and not diagnosis.findings:  # its terms are right, but for their last digits
        diagnosis = None
    if diagnosis is None and findings:  # what was made of another shape says nothing more
        return Judged(name, "WRONG", ulps, difference, findings)
    scale = float(np.max(abs(expected), initial=0.0))
    if diagnosis is None:
        findings += (_unexplained(exercise, name, difference, scale),)
    else:
        findings += diagnosis.findings
    tolerance = 1e-9 * scale
    sets = case.sets.get(name)
    return Judged(
        name,
        "WRONG",
        ulps,
        difference,
        findings,
        diagnosis.coefficients if diagnosis and len(terms) > 1 else (),
        maps.where(got, expected, tolerance, exercise.gradients[name], sets),
        _reason(exercise, name, got, values),
    )


def _unexplained(exercise: Exercise, name: str, difference: float, scale: float) -> Finding:
    """The honest word where no known mistake explains a gradient."""
    code = f"{exercise.prefix}_{exercise.original(name).upper()}"
    numbers = {"difference": difference, "of": scale}
    if difference < 1e-5 * scale:
        says = (
            f"{name} is right to {-np.log10(difference / scale):.0f} digits only: is something rounded to"
            " float32, taken by finite differences, or a small constant left out?"
        )
        return Finding(f"{code}_INEXACT", says, name, numbers)
    return Finding(f"{code}_UNKNOWN", f"{name} is wrong in no way that this exercise knows", name, numbers)


def _reason(exercise: Exercise, name: str, got: Array, values: Values) -> str:
    """What must be 0 and is not, of the first invariant that a gradient breaks."""
    for invariant in exercise.invariants:
        if invariant.gradient != name:
            continue
        off = np.asarray(invariant.of(got, values))
        index = maps.worst(off, np.zeros_like(off))
        if abs(off[index]) > 1e-9 * max(1.0, float(np.max(abs(got), initial=0.0))):
            place = maps.lettered(exercise.gradients[name], index, off.shape)
            at = f" at {place}" if place else ""
            return f"{invariant.because} Yours {invariant.what} {off[index]:+.4g}{at}."
    return ""


def _witnessed(
    exercise: Exercise,
    function: Callable[..., Any],
    forward: Callable[..., Any] | None,
    case: Case,
    judged: Judged,
    results: Mapping[str, Array],
) -> Judged:
    """A wrong gradient with its worst element by three ways; the smallest case where no cause is known."""
    if judged.word != "WRONG":
        return judged
    expected = of_terms.wanted(exercise.terms(case.values)[judged.name])
    got = results[judged.name]
    changes: dict[str, Any] = {}
    if got.shape == expected.shape:
        index = maps.worst(got, expected)
        differences = _differences(exercise, forward, case, judged.name, index)
        changes["witness"] = Witnessed(index, differences, float(expected[index]), float(got[index]))
    if any(f.code.endswith("_UNKNOWN") for f in judged.findings):
        changes["smallest"] = _smallest(exercise, function, judged.name)
    return Judged(**vars(judged) | changes)


def _differences(
    exercise: Exercise,
    forward: Callable[..., Any] | None,
    case: Case,
    name: str,
    index: tuple[int, ...],
) -> float | None:
    """A central difference of the forward in one element; None where the case has no loss."""
    what = name.removeprefix("d")
    if case.loss is None or what not in case.inputs:
        return None
    run = exercise.forward if forward is None or _changed_forward(exercise, forward, case) else forward
    assert run is not None
    losses = []
    for step in (STEP, -STEP):
        arrays = {key: array.copy() for key, array in case.inputs.items()}
        arrays[what][index] += step
        losses.append(case.loss(run, arrays))
    return (losses[0] - losses[1]) / (2 * STEP)


def _smallest(exercise: Exercise, function: Callable[..., Any], name: str) -> str:
    """The smallest case, the wanted gradient and the student's, as a text; "" where that one is right."""
    sizes = smallest(exercise)
    case = _case(exercise, sizes)
    outcome = contract.call(exercise, function, case)
    expected = of_terms.wanted(exercise.terms(case.values)[name])
    got = outcome.results.get(name)
    if got is None or (got.shape == expected.shape and np.allclose(got, expected)):
        return ""
    parts = [f"the smallest case, {_listed(sizes)}:", "needed", _array(expected), "yours", _array(got)]
    return "\n".join(parts)


def _array(array: Array) -> str:
    return np.array2string(array, precision=4, suppress_small=True)
