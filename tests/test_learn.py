"""The exercises and their checker: every known fault is called by its name, every right form is accepted."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

import numgpt
from numgpt import gradcheck, ops
from numgpt.__main__ import main
from numgpt.learn import faults, hints, judging, laws, starting, telling
from numgpt.learn import terms as of_terms
from numgpt.learn.exercises import NAMES
from numgpt.learn.variation import exercise

STUDENTS = ["", "ada", "Bob", "ève", "grace", "42"]
WITH_FORWARD = [name for name in NAMES if exercise(name).forward is not None]
OPS = {
    "linear": ops.linear,
    "gelu_tanh": ops.gelu_tanh,
    "gelu_erf": ops.gelu,
    "layernorm": ops.layernorm,
    "attention": ops.attend,
}


def case(wanted, seed=0, **sizes):
    """A case of an exercise, by its own sizes unless others are given."""
    return wanted.case(np.random.default_rng(seed), **dict(wanted.sizes) | sizes)


def wanted_by_terms(wanted, made):
    """The gradients as the signed sums of their terms."""
    return {name: of_terms.wanted(terms) for name, terms in wanted.terms(made.values).items()}


def solved(wanted, made):
    """What the solution returns, by name."""
    returned = wanted.solution(*made.arguments)
    if isinstance(returned, dict):
        return returned
    return dict(zip(wanted.gradients, returned if isinstance(returned, tuple) else (returned,)))


# The mathematics of the exercises.


@pytest.mark.parametrize("student", STUDENTS)
@pytest.mark.parametrize("name", NAMES)
def test_the_solution_is_the_signed_sum_of_its_terms_at_every_size(name, student):
    wanted = exercise(name, student)
    for seed in range(3):
        sizes = {letter: size + seed for letter, size in wanted.sizes.items()}
        made = case(wanted, seed, **sizes)
        terms, result = wanted_by_terms(wanted, made), solved(wanted, made)
        assert list(terms) == list(result) == list(wanted.gradients)
        for gradient in terms:
            np.testing.assert_allclose(result[gradient], terms[gradient], rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", WITH_FORWARD)
def test_the_gradients_are_those_of_the_forward_by_differences(name):
    wanted = exercise(name)
    made = case(wanted)
    for gradient, array in wanted_by_terms(wanted, made).items():
        if gradient.removeprefix("d") in made.inputs:
            for index in [(0,) * array.ndim, tuple(n - 1 for n in array.shape)]:
                slope = judging._differences(wanted, None, made, gradient, index)
                assert abs(slope - array[index]) < 1e-8 * max(1, abs(array).max())


@pytest.mark.parametrize("name", OPS)
def test_an_exercise_computes_what_the_op_does(name):
    wanted = exercise(name)
    made, op = case(wanted), OPS[name]
    _, saved = op.forward(*made.inputs.values())
    theirs = dict(zip((f"d{name}" for name in made.inputs), op.backward(made.arguments[0], saved)))
    ours = solved(wanted, made)
    for name, gradient in theirs.items():
        np.testing.assert_allclose(ours[name], gradient, rtol=1e-12, atol=1e-13)


def test_the_exercises_of_a_model_compute_what_the_ops_do():
    made, solution = case(exercise("multihead")), exercise("multihead").solution
    dheads, dqkv, *_ = solution(*made.arguments)
    qkv = made.inputs["x"] @ made.inputs["W"] + made.inputs["b"]
    _, saved = ops.attention.forward(qkv, n_head=2)
    np.testing.assert_allclose(
        dqkv, ops.attention.backward(made.arguments[0], saved)[0], rtol=1e-11, atol=1e-13
    )

    made = case(exercise("embedding"))
    dwte, dwpe = exercise("embedding").solution(*made.arguments)
    dy, (ids, wte, wpe) = made.arguments
    np.testing.assert_allclose(dwte, ops.embedding.backward(dy, (ids, wte))[1], rtol=1e-12, atol=1e-13)
    _, saved = ops.positions.forward(wte[ids], wpe)
    np.testing.assert_allclose(dwpe, ops.positions.backward(dy, saved)[1], rtol=1e-12, atol=1e-13)

    made = case(exercise("cross_entropy"))
    (targets,) = (a for a in made.arguments[1] if isinstance(a, np.ndarray) and a.dtype.kind == "i")
    _, saved = ops.cross_entropy.forward(made.inputs["logits"], targets)
    dlogits = exercise("cross_entropy").solution(*made.arguments)
    theirs = ops.cross_entropy.backward(made.arguments[0], saved)[0]
    np.testing.assert_allclose(dlogits, theirs, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", [name for name in OPS if name != "attention"])
def test_a_solution_keeps_the_laws_of_a_derivative(name):
    wanted = exercise(name)

    def backward(dy, saved):
        returned = wanted.solution(dy, saved)
        return returned if isinstance(returned, tuple) else (returned,)

    laws = {"laws": [gradcheck.WITNESS]} if name == "gelu_erf" else {}
    gradcheck.check(wanted.forward, backward, *case(wanted).inputs.values(), **laws)


# The checker.


@pytest.mark.parametrize("name", NAMES)
def test_every_known_fault_is_called_by_its_name_and_none_is_called_right(name):
    planted = list(faults.plant([name]))
    assert len(planted) >= 10
    assert not [p.fault.seen for p in planted if p.report.right]
    assert not [(p.fault.seen, p.report.codes) for p in planted if not p.named]


def test_nearly_every_fault_is_named_in_a_students_variant_too():
    planted = list(faults.plant(["cross_entropy", "softmax", "layernorm"], "ada"))
    assert not [p.fault.seen for p in planted if p.report.right]
    assert sum(p.named for p in planted) >= 0.95 * len(planted)


def test_the_table_of_faults_is_as_long_as_the_page_says():
    count = sum(len(exercise(name).faults) for name in NAMES)
    page = (Path(numgpt.learn.__file__).parent / "README.md").read_text("utf-8")
    told = re.search(r"100\.0 % of (\d+) faults are named, 0 called right", page)
    assert told is not None
    assert 100 <= int(told[1]) <= count


@pytest.mark.parametrize("student", STUDENTS)
@pytest.mark.parametrize("name", NAMES)
def test_other_right_forms_are_accepted_within_rounding(name, student):
    reports = [report for _, report in faults.accepted([name], student)]
    assert len(reports) >= 3
    for report in reports:
        assert report.right, telling.told(report)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_not_written_yet_is_said_to_be(name):
    wanted = exercise(name)
    report = judging.judge(wanted, starting.loaded(wanted, starting.page(wanted, stub=True)))
    assert report.codes == ("NOT_WRITTEN",)
    assert telling.told(report) == f"{wanted.fill}    not written yet"


def wrong_layernorm(dy, saved):
    xhat, rstd, gamma = saved
    g = dy * gamma
    dx = rstd * (g - xhat * (g * xhat).mean(-1, keepdims=True))
    return dx, (dy * xhat).sum((0, 1)), dy.sum((0, 1))


def test_a_message_has_the_verdict_the_terms_the_reason_and_three_numbers():
    lines = str(numgpt.learn.check(wrong_layernorm, "layernorm")).splitlines()
    assert lines[0] == "layernorm_backward    dx WRONG    dgamma ok    dbeta ok"
    assert lines[1] == "  Your dx has 2 of its 3 terms."
    assert lines[4].split() == ["rstd", "*", "mean_C(g)", "0.000", "-1", "<-", "missing"]
    rest = " ".join(" ".join(lines[6:]).split())
    assert "dx sums to 0 over C. Yours sums to" in rest
    numbers = re.search(r"finite difference (\S+), reference (\S+), yours (\S+)\.$", rest)
    assert numbers is not None
    assert numbers[1] == numbers[2] != numbers[3]


def test_a_right_form_that_rounds_otherwise_is_told_its_ulps():
    def softmax_backward(dy, saved):
        _, p = saved
        direct = p * dy
        return direct - p * direct.sum(-1, keepdims=True) + 1e-15

    report = numgpt.learn.check(softmax_backward)
    assert report.right
    assert re.search(r"dx ok    max diff 1e-15 \(\d+ ulp\): correct$", str(report))


def test_what_no_mistake_explains_is_said_so_with_the_smallest_case():
    def softmax_backward(dy, saved):
        _, p = saved
        return np.sin(p * dy)

    report = numgpt.learn.check(softmax_backward)
    assert report.codes == ("SM_DX_UNKNOWN",)
    assert "the smallest case, B 1, T 2, C 3:" in str(report)
    assert str(report).count("[[[") == 2


def test_a_gradient_of_float32_digits_is_said_to_be_inexact():
    def softmax_backward(dy, saved):
        _, p = saved
        dx = p * (dy - (p * dy).sum(-1, keepdims=True))
        return dx.astype(np.float32).astype(np.float64)

    report = numgpt.learn.check(softmax_backward)
    assert report.codes == ("SM_DX_INEXACT",)
    assert "digits only" in str(report)


def test_where_a_gradient_is_wrong_is_mapped_along_its_axes():
    def softmax_backward(dy, saved):
        _, p = saved
        dx = p * (dy - (p * dy).sum(-1, keepdims=True))
        dx[:, -1, 3] += 0.1
        return dx

    text = str(numgpt.learn.check(softmax_backward))
    assert "3 of 105 elements are wrong, only at t = 4 (the last), only at c = 3" in text


DRAWS = np.random.default_rng(0)


def attention_backward(dy, saved):
    q, k, v, P, scale = saved
    dv = P.swapaxes(-1, -2) @ dy
    dP = dy @ v.swapaxes(-1, -2)
    dS = P * dP
    return dv, dP, dS, scale * (dS @ k), dS.swapaxes(-1, -2) @ q


def test_a_chain_is_judged_step_by_step_each_by_what_it_got():
    answer = numgpt.learn.check(attention_backward)
    words = {g.name: g.word for g in answer.gradients}
    assert words == {"dv": "ok", "dP": "ok", "dS": "WRONG", "dq": "follows", "dk": "WRONG"}
    assert answer.codes == ("AT_ROW_TERM_MISSING", "AT_DK_TIMES_ROOT_D")
    assert str(answer).splitlines()[0].endswith("dS WRONG    dq right for what it got    dk WRONG")


CONTRACT = {
    "SIGNATURE": lambda dy: dy,
    "RAISED": lambda dy, saved: dy["x"],
    "NOT_WRITTEN": lambda dy, saved: (_ for _ in ()).throw(NotImplementedError),
    "RETURNED_NOTHING": lambda dy, saved: None,
    "COUNT": lambda dy, saved: (dy, dy),
    "DTYPE": lambda dy, saved: dy > 0,
    "NOT_FINITE": lambda dy, saved: dy / 0,
    "ARGUMENT_CHANGED": lambda dy, saved: np.multiply(dy, 2, out=dy),
    "NOT_REPEATABLE": lambda dy, saved: dy * DRAWS.random(),
    "SM_DX_RESHAPED": lambda dy, saved: exercise("softmax").solution(dy, saved).reshape(-1),
    "SM_DX_SHAPE": lambda dy, saved: dy[:, 1:],
}


@pytest.mark.parametrize("code", CONTRACT)
def test_a_breach_of_contract_is_named(code):
    report = numgpt.learn.check(CONTRACT[code], "softmax")
    assert report.codes == (code,)
    assert not report.right
    assert len(telling.told(report).splitlines()) < 12


def test_a_report_for_programs_is_plain_and_has_the_numbers():
    report = telling.as_dict(numgpt.learn.check(wrong_layernorm, "layernorm"))
    (finding,) = report["gradients"][0]["findings"]
    assert finding["code"] == "LN_MEAN_TERM_MISSING"
    assert finding["numbers"] == {"term": "mean", "got": 0.0, "want": -1}
    assert report["right"] is False


def test_an_exercise_is_found_by_its_functions_name_or_asked_for():
    def softmax_backwards(dy, saved):
        return dy

    with pytest.raises(numgpt.InputError, match="did you mean softmax_backward"):
        numgpt.learn.check(softmax_backwards)
    with pytest.raises(numgpt.InputError, match="no exercise layer_norm .did you mean layernorm"):
        numgpt.learn.check(softmax_backwards, "layer_norm")


# Files, variants and hints.


@pytest.mark.parametrize("student", STUDENTS[:2])
@pytest.mark.parametrize("name", NAMES)
def test_a_started_file_has_the_forward_and_not_the_solution(name, student):
    wanted = exercise(name, student)
    page, key = (starting.page(wanted, stub=stub) for stub in (True, False))
    hidden = set(key.splitlines()) - set(page.splitlines())
    assert len(hidden) >= 2
    assert "NotImplementedError" in page and "NotImplementedError" not in key
    assert not re.search(r"numgpt\.|from \.|import \w*numgpt", page.replace("numgpt learn", ""))
    assert max(map(len, page.splitlines())) <= (120 if student else 110)  # words may be longer
    if wanted.forward is not None:
        assert f"def {wanted.forward.__name__}(" in page


def test_students_have_their_own_words_and_constants_and_the_same_ones_each_time():
    pages = {s: starting.page(exercise("layernorm", s), stub=True) for s in STUDENTS}
    bodies = {page.partition("EPS = ")[2] for page in pages.values()}
    assert len(bodies) >= 4
    assert pages["ada"] == starting.page(exercise("layernorm", "Ada "), stub=True).replace("Ada ", "ada")


def test_codes_are_the_same_in_all_words():
    for student in STUDENTS:
        wanted = exercise("layernorm", student)
        report = judging.judge(wanted, lambda dy, saved: (dy, dy[0, 0] * 0, dy.sum((0, 1))))
        assert "LN_DGAMMA_ZERO" in report.codes, report.codes


@pytest.mark.parametrize("name", NAMES)
def test_every_fault_has_hints_of_three_levels(name):
    wanted = exercise(name)
    for fault in wanted.faults:
        ladder = hints.ladder(wanted, fault.codes)
        assert len(ladder) == 3
        assert "?" in ladder[0] and all(len(hint) < 200 for hint in ladder)
    assert set(wanted.hints) - {""}, "hints for some mistakes of their own"


def test_a_hint_fits_the_mistake_that_was_found():
    wanted = exercise("layernorm")
    assert "same constant" in hints.hint(wanted, ["LN_MEAN_TERM_MISSING"], 1)
    assert "gamma" in hints.hint(wanted, ["LN_GAMMA_NOT_APPLIED"], 3)
    assert hints.hint(wanted, [], 2).startswith("level 2 of 3, a term: dx has one term")


def test_the_laws_of_numgpt_check_catch_what_is_planted_in_exercises(capsys):
    held = dict(laws.held(["layernorm", "residual"]))
    assert len(held) == len(exercise("layernorm").faults) + len(exercise("residual").faults)
    assert set(held.values()) == {gradcheck.WITNESS, laws.CONTRACT}
    assert main(["check", "--strength", "exercise layernorm"]) == 0
    assert "21 faults planted in the exercises of numgpt learn: " in capsys.readouterr().out


@pytest.mark.parametrize(
    "name", [n if n == "dropout" else pytest.param(n, marks=pytest.mark.slow) for n in NAMES]
)
def test_no_fault_of_an_exercise_gets_past_the_laws(name):
    wanted, held = exercise(name), dict(laws.held([f"exercise {name}: "]))
    if wanted.forward is None:
        pytest.skip("has no forward, of which differences could be taken")
    assert None not in held.values()
    for make in (wanted.case, wanted.other_case):
        made = make and make(np.random.default_rng(0), **wanted.sizes)
        if made and made.loss is not None:
            assert len(held) == len(wanted.faults)
            assert laws.law_of(wanted, wanted.solution, made) is None


def test_the_laws_pass_a_right_solution():
    wanted = exercise("layernorm")
    assert laws.law_of(wanted, wanted.solution, case(wanted)) is None


class Silent(Exception):
    def __str__(self):
        raise RuntimeError("it says nothing")


def raises_silently(*arguments):
    raise Silent


ODD = [
    lambda *a: "x", lambda *a: [[1, 2], [3]], lambda *a: {"dz": 1}, lambda *a: (), lambda *a: np.array("x"),
    lambda *a: object(), lambda *a: 1j * np.ones((3, 5, 7)), lambda *a: np.nan, lambda *a: True,
    lambda *a: np.ones(0), lambda *a: (x for x in a), raises_silently, len, lambda: 3,
    lambda *a: {None: 3},
    lambda *a: np.ones((3, 5, 7), object), lambda *a: 1e308 * np.ones((3, 5, 7)),
    lambda *a: [np.zeros(3)] * 5,
    lambda *a: np.longdouble(3), lambda *a: np.datetime64("now"), lambda *a: range(3),
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_whatever_a_function_returns_it_is_judged_in_a_few_lines(name):
    for function in ODD:
        answer = numgpt.learn.check(function, name)
        assert not answer.right
        assert answer.codes
        assert len(str(answer)) < 6000
        json.dumps(telling.as_dict(answer), allow_nan=False)
