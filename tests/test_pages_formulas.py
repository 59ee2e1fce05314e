"""Formulas in a page: they give NumPy's numbers, show what is computed, and name what a number is made of."""

import contextlib
import math
import re

import numpy as np
import pytest
from browser import browser, opened  # noqa: F401
from test_pages_cells import JUNK, MODELS, SEEN, numbers_of, trace_of

from numgpt import GPT, Config, ops, pages
from numgpt.ops.erf import erfc
from numgpt.pages import formulas
from numgpt.proofs.subjects import SMALL

# What the language has, each of them in one of these.
SHOWN = {
    "GPT-2": {},
    "dropout": {"visibility": SEEN["packed"]},
    "nanoGPT": {},
    "groups": {"visibility": SEEN["padded"]},
    "YaRN": {},
    "ALiBi, capped": {"visibility": SEEN["prefix"]},
}
every_page = pytest.mark.parametrize("name", SHOWN)
CELLS = """(count) => N.data.names.flatMap((name) => ["value", "grad"].flatMap((which) => {
  const { size, shape, [which]: array } = N.tensor(name);
  if (!array) return [];
  const each = Array.from({ length: count }, (_, n) => Math.floor((size * (n + 0.5)) / count));
  const places = [...new Set(each)];
  return places.map((flat) => ({ name, which, flat, cell: N.cell(name, N.index(shape, flat), which) }))
    .filter(({ cell }) => cell)
    .map(SHOW);
}))"""


def cells_of(page, show, count=3):
    """What a function shows of some cells of every array that has formulas: {name, which, flat, …}."""
    return page.evaluate(CELLS.replace("SHOW", show), count)


@pytest.fixture(scope="module")
def shown(browser, tmp_path_factory):
    """name of a model → (its trace, its page in a tab that stays open)."""
    made = {}
    with contextlib.ExitStack() as tabs:

        def of(name):
            if name not in made:
                trace = trace_of(MODELS[name], **SHOWN[name])
                file = tmp_path_factory.mktemp("page") / "page.html"
                pages.explore(trace, file)
                made[name] = trace, tabs.enter_context(opened(browser, file))
            return made[name]

        yield of


# The law.


@every_page
def test_a_formula_gives_numpys_number(shown, name):
    trace, page = shown(name)
    found = cells_of(
        page, "({ cell, ...place }) => ({ ...place, result: cell.result, agrees: cell.agrees })", 4
    )
    by_name = {}
    for cell in found:
        by_name.setdefault((cell["name"], cell["which"]), []).append(cell)
    for (at, which), cells in by_name.items():
        held = getattr(trace, which)[at]
        flat = [cell["flat"] for cell in cells]
        places = np.indices(held.shape).reshape(held.ndim, held.size).T[flat]
        expected = formulas.numbers(trace, at, which, places)
        results = np.array([cell["result"] for cell in cells])
        assert np.abs(results - expected).max() <= 1e-12 * np.abs(held).max(), (at, which)
        assert all(cell["agrees"] for cell in cells)
    has_one = {
        (at, which)
        for at, which, _ in numbers_of(trace)
        if not isinstance(formulas.uses(trace, at, which), str)
    }
    assert set(by_name) == has_one


def test_erfc_is_numpys(shown):
    x = np.concatenate([np.linspace(-7, 30, 371), [0.46875, -0.46875, 4, -4]])
    page = shown("GPT-2")[1]
    found = page.evaluate("(xs) => xs.map(N.erfc)", x.tolist())
    assert np.allclose(found, erfc(x), rtol=2e-15, atol=5e-324)


def test_a_part_of_a_tied_gradient_is_what_its_use_gives(shown):
    trace, page = shown("GPT-2")
    read = "N.cell('wte.weight', [4, 2], 'grad').uses.map(({ step, result, held }) => [step, result, held])"
    for step, result, held in page.evaluate(read):
        assert held == trace.parts["wte.weight"][step][4, 2]
        assert math.isclose(result, held, rel_tol=1e-12)


@pytest.mark.parametrize("name", ["GPT-2", "ALiBi, capped"])
def test_attention_in_one_piece_has_formulas_in_a_page_too(browser, tmp_path, name):
    kept = ["h.0.attn.c_attn", "h.0.attn.heads", "h.0.attn.c_proj"]
    pages.explore(trace_of(MODELS[name], keep=kept), tmp_path / "page.html")
    with opened(browser, tmp_path / "page.html") as page:
        found = cells_of(page, "({ name, which, cell }) => [name, which, cell.agrees]", 12)
    assert [cell for cell in found if not cell[2]] == []
    assert {("h.0.attn.heads", "value"), ("h.0.attn.c_attn", "grad")} <= {
        (name, which) for name, which, _ in found
    }


# What is shown.

# MathML as an expression of Python: what is under a number says how many terms it stands for.
PYTHON = """(element) => {
  const SIGNS = { "−": "-", "·": "*", "\\u2062": "*", "⌊": "math.floor(", "⌋": ")", "≤": "<=", "=": "==" };
  const words = (element) => {
    const all = () => [...element.children].map(words);
    const text = element.textContent;
    switch (element.localName) {
      case "mi": return text === "π" ? "math.pi" : text === "max" ? "max" : `math.${text}`;
      case "mn": return text.replaceAll("−", "-");
      case "mo": return SIGNS[text] || text;
      case "mtext": return text.includes("since") ? "#" : "-1e300";
      case "mfrac": return `((${all()[0]})/(${all()[1]}))`;
      case "msup": return `(${all()[0]})**(${all()[1]})`;
      case "msqrt": return `math.sqrt(${all().join(" ")})`;
      case "munder": return all()[0];
      case "msub": return "0";
      default: return all().join(" ");
    }
  };
  return words(element).split("#")[0];
}"""


LINES = f"""({{ name, cell }}) => {{
  const results = [], locals = [];
  for (const use of cell.uses) {{
    results.push(use.result);
    locals.push(...use.locals.filter(({{ at }}) => at).map(({{ value }}) => value));
  }}
  return [...cell.numbers.querySelectorAll(".formula-line")].map((line) => {{
    const isLocal = line.classList.contains("formula-local");
    const parts = ({PYTHON})(line).split(" == ");
    return {{ name, text: parts[isLocal ? 1 : 0], result: (isLocal ? locals : results).shift() }};
  }});
}}"""


@every_page
def test_the_numbers_of_a_formula_come_to_what_it_gives(shown, name):
    """But for the four digits with which they are written."""
    page = shown(name)[1]
    lines = [line for of_cell in cells_of(page, LINES) for line in of_cell]
    assert len(lines) > 300
    for line in lines:
        found = eval(line["text"], {"math": math, "max": lambda *numbers: max(numbers)})
        largest = max(abs(float(word)) for word in re.findall(r"\d[\d.]*(?:e[+-]?\d+)?", line["text"]))
        assert abs(found - line["result"]) <= 2e-3 * max(largest, abs(found)), line


@every_page
def test_its_lines_of_numpy_run_as_they_stand(shown, name):
    trace, page = shown(name)
    found = cells_of(page, "({ cell, ...place }) => ({ ...place, lines: cell.numpy() })", 2)
    for cell in found:
        names = {"trace": trace}
        exec(cell["lines"], names)
        held = getattr(trace, cell["which"])[cell["name"]]
        assert abs(names["number"] - held.flat[cell["flat"]]) <= 1e-12 * np.abs(held).max(), cell["lines"]


def test_a_formula_is_read_in_letters(shown):
    page = shown("GPT-2")[1]
    text = lambda name, index, which="value": page.evaluate(
        "([name, index, which]) => N.cell(name, index, which).text.textContent.replace(/\\u00a0/g, ' ')",
        [name, index, which],
    )
    assert text("h.0.mlp.c_fc", [0, 3, 5]) == "yn,o=∑ixn,i\u2062Wi,o+bon = (0, 3) · o = 5"
    assert ",  since s≤tm" in text("h.0.attn.heads.probs", [0, 1, 3, 2])
    assert ",  since s>tn = (0) · h = 1 · t = 2 · s = 3" in text("h.0.attn.heads.probs", [0, 1, 2, 3])
    assert text("h.1", [0, 3, 2]).startswith("The same number as h.1.out:zn=xn+yn")
    assert text("wte.weight", [4, 2], "grad").startswith("through wtedWv,c=∑n:idsn=vdyn,cthrough lm_head")


# What a number is made of.

TERMS = "([name, index, which]) => N.cell(name, index, which).terms.map((t) => [t.which, t.name, t.index])"


def terms_of(page, name, index, which="value"):
    """{(which, name): the places of its entries} that a number is made of."""
    found = {}
    for kind, source, place in page.evaluate(TERMS, [name, list(index), which]):
        found.setdefault((kind, source), set()).add(tuple(place))
    return found


def test_a_number_is_made_of_what_its_formula_reads(shown):
    trace, page = shown("GPT-2")
    row = {(0, 3, c) for c in range(6)}
    assert terms_of(page, "h.0.mlp.c_fc", (0, 3, 5)) == {
        ("value", "h.0.ln_2"): row,
        ("value", "h.0.mlp.c_fc.weight"): {(c, 5) for c in range(6)},
        ("value", "h.0.mlp.c_fc.bias"): {(5,)},
    }
    assert terms_of(page, "h.0.ln_1", (0, 3, 2))["value", "drop"] == row
    causal = {(0, 1, 3, s) for s in range(4)}
    assert terms_of(page, "h.0.attn.heads.probs", (0, 1, 3, 2)) == {
        ("value", "h.0.attn.heads.scores"): causal
    }
    assert terms_of(page, "h.0.attn.heads.probs", (0, 1, 2, 3)) == {}
    assert terms_of(page, "h.0.attn.heads.mix", (0, 3, 4)) == {
        ("value", "h.0.attn.heads.probs"): causal,
        ("value", "h.0.attn.heads.v"): {(0, 1, s, 1) for s in range(4)},
    }
    assert terms_of(page, "h.0", (0, 3, 2), "grad")["grad", "h.1.mid"] == {(0, 3, 2)}
    assert terms_of(page, "h.0", (0, 3, 2), "grad")["grad", "h.1.ln_1"] == row
    losses = terms_of(page, "loss", ())["value", "lm_head"]
    assert losses == {(*at, v) for at in np.argwhere(trace.ids["targets"] >= 0).tolist() for v in range(7)}


def test_a_row_of_the_embedding_collects_the_places_of_its_token(shown):
    trace, page = shown("GPT-2")
    ids, counts = np.unique(trace.ids["tokens"], return_counts=True)
    token = int(ids[counts > 1][0])
    found = terms_of(page, "wte.weight", (token, 2), "grad")["grad", "wte"]
    assert found == {(*at, 2) for at in np.argwhere(trace.ids["tokens"] == token).tolist()}


@pytest.mark.parametrize(
    ("name", "query"), [("dropout", (0, 4)), ("groups", (1, 4)), ("ALiBi, capped", (0, 0))]
)
def test_a_query_is_made_of_the_keys_that_it_sees(shown, name, query):
    trace, page = shown(name)
    b, t = query
    probs = trace.value["h.0.attn.heads.probs"]
    reads = trace.steps["h.0.attn.heads.probs"].reads[0]
    seen = {(b, 1, t, int(s)) for s in np.flatnonzero(probs[b, 1, t])}
    assert terms_of(page, "h.0.attn.heads.probs", (b, 1, t, t))["value", reads] == seen


@every_page
def test_a_weight_is_how_fast_the_number_changes(shown, name):
    """Each of the three that weigh most is moved by h, on both sides."""
    moved = """({ name, which, flat, cell }) => cell.terms.slice(0, 3).map((term) => {
      const { shape, [term.which]: array } = N.tensor(term.name);
      const index = N.index(N.tensor(name).shape, flat);
      const [at, h] = [N.at(shape, term.index), 2 ** -18];
      const before = array[at];
      const [up, down] = [h, -h].map((by) => {
        array[at] = before + by;
        const { result } = N.cell(name, index, which);
        array[at] = before;
        return result;
      });
      return { name, which, term, slope: (up - down) / (2 * h), size: Math.abs(cell.result) };
    })"""
    page = shown(name)[1]
    found = [one for of_cell in cells_of(page, moved, 1) for one in of_cell]
    assert len(found) > 150
    for one in found:
        if not one["name"].startswith("h.1."):
            assert abs(one["slope"] - one["term"]["weight"]) <= 1e-7 * (
                1 + one["size"] + abs(one["slope"])
            ), one


# What has none, and what is wrong.


def test_where_there_is_no_formula_the_page_says_why(browser, tmp_path):
    trace = trace_of({}, edit={"h.0.mlp.act": lambda a: 2 * a})
    pages.explore(trace, tmp_path / "page.html")
    with opened(browser, tmp_path / "page.html") as page:
        why = lambda *what: page.evaluate("(what) => N.why(...what)", what)
        assert why("wte.weight", "value").startswith("A parameter")
        assert why("wte.weight", "grad") is None
        assert why("h.0.mlp.act", "value").startswith("It was edited")
        said = page.evaluate("N.cell('h.0.mlp.c_fc', [0, 1, 2], 'grad').numbers.textContent")
        assert "it was edited in flight, here or where this is read" in said
        assert why("loss", "grad").startswith("The backward starts here")
        for name, which, _ in numbers_of(trace):
            assert (why(name, which) is None) != isinstance(formulas.uses(trace, name, which), str)


def test_a_trace_of_some_names_says_what_it_lacks(browser, tmp_path):
    trace = trace_of({}, keep=["h.0.mid", "h.0.out", "h.0.mlp", "h.0.mlp.act"])
    pages.explore(trace, tmp_path / "page.html")
    with opened(browser, tmp_path / "page.html") as page:
        assert page.evaluate("N.why('h.0.mlp.act', 'grad')") == "The trace has no step that reads it."
        said = page.evaluate("N.cell('h.0.mid', [0, 1, 2], 'grad').numbers.textContent")
        assert "it may lack some of the steps that read this" in said


def test_steps_that_make_no_sense_break_no_page(browser, tmp_path):
    trace = trace_of(MODELS["groups"])
    names = list(trace.steps)
    for n, (name, step) in enumerate(list(trace.steps.items())):
        changes = [
            {"options": JUNK[n % len(JUNK)]},
            {"options": {}},
            {"reads": (*step.reads, "nowhere")},
            {"reads": tuple("nowhere" for _ in step.reads)},
            {"reads": (names[-1 - n],) * len(step.reads)},
            {"parameters": ("nowhere.weight",)},
            {"op": trace.steps[names[-1 - n]].op},
        ]
        trace.steps[name] = step._replace(**changes[n % len(changes)])
    pages.explore(trace, tmp_path / "page.html")
    with opened(browser, tmp_path / "page.html") as page:
        cells_of(page, "({ cell }) => [cell.result, cell.numpy()]")


def test_its_lines_can_be_copied_and_its_equations_opened(shown):
    page = shown("GPT-2")[1]
    page.evaluate(
        "N.go({ op: 'h.0.ln_1', tensor: 'h.0.ln_1', index: [0, 1, 2], which: 'value', view: 'formula' })"
    )
    page.locator("#view button", has_text="Copy these lines").click()
    assert "number = xhat(n, c) * w[c] + b[c]" in page.locator("#code textarea").input_value()
    page.locator("#code[open]").wait_for()  # it opens when the clipboard has answered
    page.keyboard.press("Escape")
    page.locator("details.vector summary").click()
    assert "x̂ = (x − μ) r" in page.locator("details.vector").inner_text()


def test_a_wrong_backward_shows_at_what_it_gives_and_nowhere_else(browser, tmp_path):
    wrong = ops.Op(
        "... -> ...", ops.gelu_tanh.forward, lambda dy, saved: (1.01 * ops.gelu_tanh.backward(dy, saved)[0],)
    )
    model = GPT(Config(**SMALL), seed=0, dtype="float64", served={"h.1.mlp.act": wrong})
    pages.explore(model.record([[0, 1, 2]], [[1, 2, 3]]).trace(), tmp_path / "page.html")
    with opened(browser, tmp_path / "page.html") as page:
        found = cells_of(page, "({ name, which, cell }) => [name, which, cell.agrees]")
        assert {(name, which) for name, which, agrees in found if not agrees} == {("h.1.mlp.c_fc", "grad")}
        said = page.evaluate("N.cell('h.1.mlp.c_fc', [0, 1, 2], 'grad').numbers.textContent")
        assert "something else than this formula was computed" in said


@pytest.mark.parametrize(
    "changes", [{}, {"vocab_size": 1}, MODELS["LLaMA"]], ids=["T is 1", "V is 1", "LLaMA"]
)
def test_small_models_and_single_floats_have_formulas_too(browser, tmp_path, changes):
    model = GPT(Config(**SMALL | changes), seed=0, dtype="float32")
    tokens = [0] if not changes else [0, 0]
    trace = model.record(tokens, tokens).trace()
    pages.explore(trace, tmp_path / "page.html")
    with opened(browser, tmp_path / "page.html") as page:
        found = cells_of(
            page, "({ cell, name, which }) => [name, which, cell.agrees, cell.result, cell.held]"
        )
    assert [cell for cell in found if not cell[2]] == []


def test_numbers_that_are_none_have_formulas_too(browser, tmp_path):
    model = GPT(Config(**SMALL), seed=0, dtype="float64")
    model.params["h.0.mlp.c_fc.bias"][2] = np.nan
    with np.errstate(invalid="ignore"):
        pages.explore(model.record([[0, 1]], [[1, 2]]).trace(), tmp_path / "page.html")
    with opened(browser, tmp_path / "page.html") as page:
        found = page.evaluate(
            "(({ result, agrees }) => [String(result), agrees])(N.cell('h.0.mlp.c_fc', [0, 1, 2], 'value'))"
        )
    assert found == ["NaN", True]
