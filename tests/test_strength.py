"""The laws' strength: they catch every wrong gradient that is planted; and the judge is judged."""

import dataclasses
import sys

import pytest

from numgpt import engine, gradcheck
from numgpt.__main__ import main
from numgpt.proofs import judge, mutants, strength
from numgpt.proofs.equal import REASONS
from numgpt.proofs.faults import FAULTS
from numgpt.proofs.judge import RAISES, verdict
from numgpt.proofs.mutants import KNOWN, Mutant, modules, plant, source, whole
from numgpt.proofs.rules import RULES

PLANTED = list(plant())


@pytest.fixture(autouse=True)
def planted_once(monkeypatch):
    """Planting takes seconds, and gives the same each time."""
    monkeypatch.setattr(strength, "plant", lambda: PLANTED)


def named(text):
    """The one mutant whose name contains text."""
    (found,) = [m for m in PLANTED if text in m.name]
    return found


# The first part is judged each time, the others where slow tests run. Layers are judged in whole models.
PARTS = {module: 24 if module.startswith("numgpt.layers") else 6 for module in modules()}
OF_MODULE = {module: [m for m in PLANTED if m.module == module] for module in modules()}
SHARES = [
    pytest.param(module, part, marks=pytest.mark.slow if part else ())
    for module, planted in OF_MODULE.items()
    for part in range(min(PARTS[module], len(planted)))
]


@pytest.mark.parametrize("module, part", SHARES)
def test_the_laws_catch_every_wrong_gradient(module, part, capsys, monkeypatch):
    planted = OF_MODULE[module][part :: PARTS[module]]
    reasons = {m.key: REASONS[m.key] for m in planted if m.key in REASONS}
    monkeypatch.setattr(strength, "plant", lambda: planted)
    monkeypatch.setattr(strength, "REASONS", reasons)
    assert strength.report() == 0
    *table, last = capsys.readouterr().out.splitlines()
    wrong, caught = int(last.split()[0]), int(last.split()[4])
    count, *ends, equal, survived = map(
        int, next(line for line in table if line.startswith("all ")).split()[1:]
    )
    assert count == len(planted) == sum(ends) + equal and equal == len(reasons) and survived == 0
    assert wrong == caught == len(planted) - equal - ends[-1]
    assert all(reason in "\n".join(table) for reason in reasons.values())


def test_every_reason_is_of_a_change_that_is_made():
    assert REASONS.keys() <= {m.key for m in PLANTED}


@pytest.mark.slow
@pytest.mark.parametrize("module", modules())
def test_a_subject_runs_the_same_functions_under_all_laws(module):
    """So that those which do not run what is changed need not be asked."""
    for subject in judge.subjects_of(module, 0, 1):
        assert judge.functions_run(module, subject, all_laws=True) == judge.functions_run(module, subject)


def test_the_rules_make_at_least_1500_mutants_and_others_have_made_20_faults():
    assert sum(m.kind in RULES for m in PLANTED) >= 1500
    assert sum(m.kind == KNOWN for m in PLANTED) == len(FAULTS) >= 20


def test_no_mutant_is_the_package_or_another_mutant():
    assert len({m.key for m in PLANTED}) == len(PLANTED)
    texts = [whole(source(m)) for m in modules()] + [m.source for m in PLANTED]
    assert len(set(texts)) == len(texts)


@pytest.mark.parametrize("kind", RULES)
def test_every_rule_is_used_and_a_law_catches_what_it_makes(kind):
    assert any(verdict(m) not in (None, RAISES) for m in PLANTED if m.kind == kind)


@pytest.mark.parametrize(
    "name",
    [
        "g - g.mean(-1, keepdims=True) + xhat * (g * xhat)",
        "→  dk = product(dscores, q) * form.scale",
        "→  dweight[ids] = dy",
        "→  q, v, k, top, total, form, keep, p = saved",
        "→  return (dq, dv, dk)",
        "→  counted = ids > 0",
        "→  dx = dx + r.back('mlp', r.back('ln_2', da))",
        "→  for i in range(first, r.config.n_layer):",
        "→  place[...] = grad",
    ],
)
def test_mistakes_that_one_would_look_for_are_among_them_and_are_caught(name):
    assert any(
        name in f"{m.name} {m.before}  →  {m.after}" and verdict(m) not in (None, RAISES) for m in PLANTED
    )


@pytest.mark.parametrize("fault", [m for m in PLANTED if m.seen], ids=lambda m: m.seen)
def test_a_known_fault_is_caught_by_a_law_at_other_seeds_too(fault):
    assert all(verdict(fault, seed) not in (None, RAISES) for seed in (1, 2))


@pytest.mark.parametrize(
    "text, law",
    [
        ("a second forward overwrites", "transpose of the derivative"),
        ("turns float32 into float64", "keeps the dtype"),
        ("written over dy", "pure"),
        ("one part in 1e9", "transpose of the derivative"),
    ],
)
def test_the_law_that_is_made_for_a_fault_is_the_one_that_catches_it(text, law):
    assert verdict(named(text)) == law


@pytest.mark.parametrize(
    "module, function",
    [
        *((module, "") for module in modules() if module != "numgpt.layers.record"),
        ("numgpt.layers.record", "Record.back"),
        *(
            pytest.param("numgpt.layers.record", f"Record.{name}", marks=pytest.mark.slow)
            for name in mutants.RECORD
            if name != "back"
        ),
    ],
)
def test_the_judge_finds_nothing_wrong_with_the_package_itself(module, function):
    """A mutant without a change, forward and backward taken from the module loaded from the text."""
    unchanged = Mutant("no change", module, function, "", "", source(module), swaps_forward=True)
    assert verdict(unchanged) is None


def test_what_does_not_run_is_not_counted_as_caught_by_a_law(capsys, monkeypatch):
    misspelt = source("numgpt.ops.activations").replace("pdf = ", "pfd = ")
    broken = dataclasses.replace(
        named("→  return (0 * (dy * (normal_cdf(x) + near * pdf)),)"), source=misspelt
    )
    assert verdict(broken) == RAISES
    monkeypatch.setattr(strength, "plant", lambda: [broken])
    monkeypatch.setattr(strength, "REASONS", {})
    assert strength.report() == 0
    assert "0 wrong gradients planted, 0 caught by a law; 1 more do not run" in capsys.readouterr().out


@pytest.mark.parametrize("command", [["relu"], ["embedding", "--seed", "3"]])
def test_laws_without_teeth_let_mutants_through_and_the_status_says_so(command, capsys, monkeypatch):
    assert main(["check", "--strength", *command]) == 0
    assert "survived:" not in capsys.readouterr().out
    for law in gradcheck.LIMITS:
        monkeypatch.setitem(gradcheck.LIMITS, law, float("inf"))
    assert main(["check", "--strength", *command]) == 1
    out = capsys.readouterr().out
    assert (
        "survived:" in out and "_backward: " in out.split("survived:")[1] and "0 caught by a law (0 %)" in out
    )


def test_a_reason_for_a_change_that_is_made_no_more_is_an_error(capsys, monkeypatch):
    monkeypatch.setitem(REASONS, ("relu_backward", "a line of old", "its change"), "it was equal once")
    assert strength.report(["relu"]) == 1
    assert "relu_backward a line of old its change: is planted no more" in capsys.readouterr().out


def test_a_reason_for_a_change_that_a_law_catches_is_an_error(capsys, monkeypatch):
    monkeypatch.setitem(
        REASONS, next(m for m in PLANTED if m.function == "relu_backward").key, "it looks equal"
    )
    assert strength.report(["relu"]) == 1
    assert "not equal, though" in capsys.readouterr().out


def test_a_known_fault_whose_place_is_gone_is_an_error(monkeypatch):
    monkeypatch.setattr(mutants, "FAULTS", (dataclasses.replace(FAULTS[0], changes=(("no such text", ""),)),))
    with pytest.raises(AssertionError, match="'no such text' is found 0 times in numgpt.ops.embedding"):
        list(plant())


def test_a_mutant_leaves_the_package_and_the_engine_as_they_are(monkeypatch):
    pytest.importorskip("numba")
    monkeypatch.setattr(engine.choice, "_engine", None)
    engine.use("numba")
    before = dict(sys.modules)
    functions = {m: dict(vars(sys.modules[m])) for m in modules()}
    for m in PLANTED[::40]:
        loaded = m.load()
        assert loaded is not sys.modules[m.module]
    assert verdict(named("dv from the probabilities before dropout")) == gradcheck.TRANSPOSE
    assert engine.current() == "numba"
    assert {name for name in sys.modules.keys() - before.keys() if name.startswith("numgpt")} == set()
    assert all(sys.modules[name] is before[name] for name in before)
    assert all(dict(vars(sys.modules[m])) == functions[m] for m in modules())


def test_a_name_that_no_mutant_has_costs_one_line(capsys):
    assert main(["check", "--strength", "nonsense"]) == 2
    captured = capsys.readouterr()
    assert (
        captured.err.startswith("numgpt: check: no backward")
        and captured.err.count("\n") == 1
        and captured.out == ""
    )
