"""The explorer's page in a browser: every number is NumPy's, every op is passed once, keys lead on."""

import dataclasses
import importlib
import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
from browser import browser, opened  # noqa: F401

from numgpt import GPT, Config, Trace, ops, pages, tokenizers
from numgpt.commands import explore

SMALL = {"vocab_size": 11, "block_size": 8, "n_layer": 2, "n_head": 2, "n_embd": 8}
TOKENS, TARGETS = [[0, 3, 1, 3, 4, 2]], [[3, 1, 3, 4, 2, -1]]
FEW = 40  # objects of a layout that is not the page's as a whole
LETTERS = "abcdefghijk"
VIEWS = "[...document.querySelectorAll('[role=tab]')].map(tab => tab.dataset.view)"
LLAMA = {"norm": "rmsnorm", "positions": "rotary", "activation": "swiglu", "bias": False, "n_kv_head": 1}
FAMILY = {
    "llama": LLAMA | {"tied": False},
    "gpt-1": {"norm_position": "post"},
    "alibi": {"positions": "alibi"},
}


def model_of(dtype="float64", served=None, **changes):
    """A small model whose numbers are those of a trained one."""
    config = Config(**SMALL | changes)
    letters = tokenizers.Characters(LETTERS[: config.vocab_size])
    model = GPT(config, seed=0, dtype=dtype, tokenizer=letters, served=served)
    model.params.flat += 0.3 * np.random.default_rng(0).standard_normal(model.params.flat.shape)
    return model


def press(page, keys):
    """Press keys where the focus is, and give what the page's state was after each."""
    return page.evaluate(
        """async keys => {
            const states = [];
            for (const key of keys) {
                const event = new KeyboardEvent("keydown", {key, bubbles: true, cancelable: true});
                document.activeElement.dispatchEvent(event);
                states.push({...N.state});
            }
            await N.settled();
            return states;
        }""",
        keys,
    )


@pytest.fixture(scope="module")
def trace():
    return model_of().record(TOKENS, TARGETS).trace(differences=1)


@pytest.fixture(scope="module")
def file(trace, tmp_path_factory):
    place = tmp_path_factory.mktemp("page") / "page.html"
    pages.explore(trace, place)
    return place


@pytest.fixture
def shown(browser, file):
    """The page of the small model, open."""
    with opened(browser, file) as page:
        yield page


# What is shown.


def test_it_opens_from_a_file_and_asks_for_nothing(shown):
    assert shown.locator("html.ready").count() == 1
    assert shown.title() == "adbdec · numgpt"
    assert shown.locator("#loss output").inner_text()


def test_every_number_is_numpys_to_the_bit(shown, trace):
    bits = "Array.from(new BigUint64Array(N.tensor(name)[which].slice().buffer), String)"
    read = f"names => names.map(name => ['value', 'grad'].map(which => {bits}))"
    for name, pair in zip(trace.names, shown.evaluate(read, list(trace.names))):
        for numbers, arrays in zip(pair, (trace.value, trace.grad)):
            expected = np.ascontiguousarray(arrays[name]).view(np.uint64).reshape(-1)
            assert [int(number) for number in numbers] == expected.tolist(), name


def test_a_cell_that_is_opened_shows_the_number_of_value_and_gradient(shown, trace):
    rng = np.random.default_rng(0)
    for name in rng.choice(trace.names, 12, replace=False):
        index = tuple(int(rng.integers(size)) for size in trace.value[name].shape)
        read = """async ([name, index]) => {
            N.go({tensor: name, index});
            await N.settled();
            const here = document.querySelectorAll("td.here");
            const titles = ["value", "grad"].map(w => document.querySelector(`#read-${w} output`).title);
            return [titles, Array.from(here, cell => cell.textContent)];
        }"""
        titles, cells = shown.evaluate(read, [name, index])
        for title, cell, arrays in zip(titles, cells, (trace.value, trace.grad)):
            number = arrays[name][index]
            assert float(title.replace("−", "-")) == number
            assert math.isclose(float(cell.replace("−", "-")), number, rel_tol=0.5, abs_tol=1e-3)


def test_a_cell_says_where_it_is_and_what_it_holds(shown):
    read = "N.go({tensor: 'h.0.mid', index: [0, 2, 5]}), document.querySelector('.of-value td.here')"
    label = shown.evaluate_handle(read).get_attribute("aria-label")
    assert "T 2 b" in label and "C 5" in label and label.startswith("value ") and ", gradient " in label


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_numbers_that_are_none_and_extreme_ones_are_shown(browser, tmp_path, dtype):
    tiny = np.finfo(dtype).smallest_subnormal
    numbers = np.array([[np.nan, np.inf, -np.inf, -0.0, 0.0], [tiny, -tiny, 1, -1e30, 0.5]], dtype)
    trace = Trace(value={"x": numbers}, grad={"x": -numbers})
    pages.explore(trace, tmp_path / "page.html")
    with opened(browser, tmp_path / "page.html") as page:
        cells = page.locator(".of-value td[role]").all_inner_texts()
        exact = page.evaluate("Array.from(N.tensor('x').value, x => Object.is(x, -0) ? '-0' : String(x))")
    assert cells[:5] == ["NaN", "+∞", "−∞", "−0", "0"]
    assert cells[7:] == ["+1.00", "−1e30", "+.500"]
    assert cells[5][0] == "+" and cells[6][0] == "−"
    read = np.array([float(text.replace("Infinity", "inf")) for text in exact], dtype)
    assert np.array_equal(read.view(f"u{read.itemsize}"), numbers.reshape(-1).view(f"u{read.itemsize}"))


TEXTS = [
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "שלום",
    "👩‍👩‍👧",
    "\u200b",
    "e\u0301",
    "",
]


def test_hostile_texts_stay_texts(browser, tmp_path):
    n = len(TEXTS)
    trace = model_of(block_size=n).record([np.arange(n)], [np.arange(n)]).trace()
    trace.texts |= dict(enumerate(TEXTS))
    title = "".join(TEXTS[:2]) + "\u2028\ud800"
    pages.explore(trace, tmp_path / "page.html", title=title)
    with opened(browser, tmp_path / "page.html", "#op=lm_head&view=tokens") as page:
        page.on("dialog", lambda dialog: pytest.fail("the page ran a text"))
        assert page.evaluate("document.scripts.length") == 3
        assert page.locator("img").count() == 0
        labels = page.locator("#strip bdi").all_inner_texts()
        assert page.locator("h1").inner_text().startswith(TEXTS[0])
    assert labels[:3] == [text.replace(" ", "␣") for text in TEXTS[:3]]
    assert labels[4] == "U+200B"


@pytest.mark.parametrize("T, V", [(1, 11), (4, 1)])
def test_one_token_and_a_vocabulary_of_one_have_their_page(browser, tmp_path, T, V):
    tokens = np.minimum(np.arange(T), V - 1)[None]
    pages.explore(model_of(vocab_size=V).record(tokens, tokens).trace(), tmp_path / "page.html")
    with opened(browser, tmp_path / "page.html", "#op=h.1.mlp.act&dir=bwd&view=tokens") as page:
        assert page.locator("#tensor-name").inner_text() == "h.1.mlp.act"
        assert page.locator("table.losses tbody tr").count() == T


def test_a_model_of_nans_has_its_page(browser, tmp_path):
    model = model_of()
    model.params["h.0.ln_1.weight"][3] = np.nan
    with np.errstate(invalid="ignore"):
        trace = model.record(TOKENS, TARGETS).trace(differences=1)
    pages.explore(trace, tmp_path / "page.html")
    with opened(browser, tmp_path / "page.html", "#op=h.0.ln_1&i=0,1,3") as page:
        assert page.locator(".of-value td.here").inner_text() == "NaN"
        for view in page.evaluate(VIEWS):
            page.evaluate("view => N.go({view})", view)


@pytest.mark.parametrize("changes", FAMILY.values(), ids=list(FAMILY))
def test_every_model_of_the_family_has_its_page(browser, tmp_path, changes):
    trace = model_of(**changes).record(TOKENS, TARGETS).trace()
    pages.explore(trace, tmp_path / "page.html")
    with opened(browser, tmp_path / "page.html", "#op=h.1.attn.heads.probs&dir=bwd") as page:
        for view in page.evaluate(VIEWS):
            page.evaluate("view => N.go({view})", view)
        ops_shown = page.evaluate("[...document.querySelectorAll('.row')].map(row => row.dataset.op)")
        assert ops_shown == [name for name, step in trace.steps.items() if step.cost is not None]
        if "norm_position" not in changes:
            logits = np.array(page.evaluate("N.lens('h.1').map(answer => [...answer.logits])"))
            np.testing.assert_allclose(logits, trace.value["lm_head"][0], rtol=0, atol=1e-12)


def test_names_that_every_object_has_are_names_like_others(browser, tmp_path):
    names = ["constructor", "__proto__", "toString", "</script>\0"]
    values = {name: np.full(2, float(n)) for n, name in enumerate(names)}
    pages.explore(Trace(value=values), tmp_path / "page.html")
    with opened(browser, tmp_path / "page.html") as page:
        assert page.evaluate("N.stepNames") == names
        for n, name in enumerate(names):
            page.evaluate("op => N.go({op})", name)
            assert page.evaluate("N.entry(N.state.tensor, [1], 'value')") == n


def test_a_trace_without_ops_or_gradients_has_its_page(browser, tmp_path):
    pages.explore(
        Trace(value={"hidden": np.ones((2, 3), "float16"), "x": np.ones(())}), tmp_path / "page.html"
    )
    with opened(browser, tmp_path / "page.html") as page:
        assert page.locator(".row").count() == 2
        assert page.locator(".of-grad .absent").inner_text().startswith("No gradient")
        assert press(page, ["b", "ArrowLeft"])[-1]["op"] == "x"


# The walk.


def test_a_walk_passes_each_op_once_in_each_direction(browser, file, trace):
    passed = [name for name, step in trace.steps.items() if step.cost is not None]
    with opened(browser, file, f"#op={passed[0]}&dir=fwd") as page:
        forth = [state["op"] for state in press(page, ["f", *["ArrowRight"] * len(passed)])]
        back = [state["op"] for state in press(page, ["b", *["ArrowRight"] * len(passed)])]
    assert forth == [*passed, passed[-1]]
    assert back == [*passed[::-1], passed[0]]


def test_backward_marks_what_it_reads_and_writes(browser, file):
    with opened(browser, file, "#op=h.0.mlp.c_proj&dir=bwd") as page:
        marked = "[...document.querySelectorAll('.row[data-role=ROLE]')].map(row => row.dataset.op)"
        assert page.evaluate(marked.replace("ROLE", "writes")) == ["h.0.mlp.act"]
        reads = page.locator(".side.reads .chip .name").all_inner_texts()
        writes = page.locator(".side.writes .chip .name").all_inner_texts()
    assert reads == ["∂ h.0.mlp.c_proj", "h.0.mlp.act", "h.0.mlp.c_proj.weight"]
    assert writes == ["∂ h.0.mlp.act", "∂ h.0.mlp.c_proj.weight", "∂ h.0.mlp.c_proj.bias"]


def test_an_address_leads_to_a_number_and_back_leads_back(browser, file):
    with opened(browser, file, "#op=h.1.mlp.act&t=h.1.mlp.c_fc&i=0,2,4&w=grad&dir=bwd&view=check") as page:
        state = page.evaluate("N.state")
        expected = {"op": "h.1.mlp.act", "tensor": "h.1.mlp.c_fc", "index": [0, 2, 4], "which": "grad"}
        assert expected | {"direction": "bwd", "view": "check"} == {
            k: state[k] for k in (*expected, "direction", "view")
        }
        press(page, ["ArrowRight", "ArrowRight"])
        assert page.evaluate("location.hash").startswith("#op=h.1.ln_2&")
        page.go_back()
        assert page.evaluate("N.state.op") == "h.1.mlp.c_fc"
        page.go_back()
        assert {k: page.evaluate("N.state")[k] for k in expected} == expected
        page.evaluate("location.hash = '#op=nowhere&i=9,x&dir=up'")
        assert page.evaluate("N.state.direction") == "fwd"


# Hands, eyes and ears.


def test_everything_is_reached_by_keys_alone(shown):
    stops = []
    for _ in range(24):
        shown.keyboard.press("Tab")
        here = "document.activeElement"
        stops.append(shown.evaluate(f"{here}.id || {here}.className || {here}.tagName"))
        if stops[-1] == "BODY" or stops.count(stops[0]) > 1:
            break
    assert 8 <= len(stops) <= 20, stops
    shown.evaluate("N.go({tensor: 'h.0.mid', index: [0, 0, 0], which: 'value'}), N.focusGrid()")
    moves = press(shown, ["ArrowRight", "ArrowDown", "End", "Home", "PageDown"])
    assert [state["index"] for state in moves] == [[0, 0, 1], [0, 1, 1], [0, 1, 7], [0, 1, 0], [0, 5, 0]]
    assert (
        shown.evaluate("document.activeElement.textContent") == shown.locator(".of-value .here").inner_text()
    )
    assert press(shown, ["g"])[0]["which"] == "grad"
    heads = press(shown, ["ArrowRight"])[0]
    assert heads["op"] == "h.0.mid"  # arrows move in the table, and not the walk
    shown.evaluate("N.go({op: 'h.0.attn.heads.probs'})")
    assert [state["head"] for state in press(shown, ["]", "]", "["])] == [1, 0, 1]
    shown.keyboard.press("?")
    assert shown.locator("#help").is_visible()


def test_an_op_is_announced_when_it_is_reached(shown):
    press(shown, ["ArrowRight"])
    said = shown.locator("#live").inner_text()
    assert said.startswith("Forward: h.0.attn.heads.mix, weighted_values, 1 by 6 by 8")


ALL_VIEWS = """async views => {
    const drawn = document.createElement("main");
    for (const view of views) {
        N.go({view});
        await new Promise(requestAnimationFrame);
        const copy = document.querySelector("#view").cloneNode(true);
        for (const part of [copy, ...copy.querySelectorAll("[id]")]) part.id = `${view}-${part.id}`;
        for (const part of copy.querySelectorAll("[for]")) part.htmlFor = `${view}-${part.htmlFor}`;
        drawn.append(copy);
    }
    document.querySelector(".work").append(...drawn.children);
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(browser, file, scheme):
    """With all views drawn below each other; in the dark, where colours alone differ, contrasts."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed").Axe()
    options = {"resultTypes": ["violations"]} | ({"runOnly": ["color-contrast"]} if scheme == "dark" else {})
    address = "#op=lm_head&t=wte.weight&w=grad&dir=bwd"
    with opened(browser, file, address, color_scheme=scheme) as page:
        page.evaluate(ALL_VIEWS, page.evaluate(VIEWS)[: 3 if scheme == "dark" else 9])
        found = axe.run(page, options=options).response["violations"]
    serious = [one for one in found if one["impact"] in ("serious", "critical")]
    assert [(one["id"], [node["html"][:200] for node in one["nodes"][:3]]) for one in serious] == []


def test_no_page_is_wider_than_its_window(browser, file):
    hands = "button, summary, [role=tab], [role=option]"
    small = """hands => [...document.querySelectorAll(hands)].filter(item => {
        const box = item.getBoundingClientRect();
        return box.width && (box.height < 24 || box.width < 24) && !item.closest("td, th, .verdict-line");
    }).map(item => item.outerHTML.slice(0, 80))"""
    with opened(browser, file, "#op=h.0.attn.c_attn&view=tokens") as page:
        for width in (360, 640, 1280, 1920):
            page.set_viewport_size({"width": width, "height": 800})
            for view in page.evaluate(VIEWS):
                page.evaluate("view => N.go({view})", view)
                assert page.evaluate("document.documentElement.scrollWidth") <= width, (width, view)
            assert page.evaluate(small, hands) == []


def test_light_and_dark_and_forced_colours(shown):
    grounds = set()
    for media in ({"color_scheme": "light"}, {"color_scheme": "dark"}, {"forced_colors": "active"}):
        shown.emulate_media(**media)
        grounds.add(shown.evaluate("getComputedStyle(document.documentElement).backgroundColor"))
        shown.evaluate("N.settled()")
        assert shown.locator(".of-value .here").inner_text()[0] in "+−0"
    assert len(grounds) >= 2


def test_a_table_is_printed_within_the_paper(browser, file):
    with opened(browser, file, viewport={"width": 720, "height": 1000}) as page:
        page.emulate_media(media="print")
        assert page.evaluate("document.documentElement.scrollWidth") <= 720
        assert not page.locator("#rail-box").is_visible()
        assert page.locator(".of-grad table").is_visible()


def test_nothing_moves_where_that_is_asked(shown):
    running = "document.getAnimations().filter(one => one.playState === 'running').length"
    for reduced, switch in (("no-preference", True), ("no-preference", False), ("reduce", True)):
        shown.emulate_media(reduced_motion=reduced)
        shown.evaluate("switched => (N.setMotion(switched), N.step(1))", switch)
        moves = reduced == "no-preference" and switch
        assert (shown.evaluate(running) > 0) == moves, (reduced, switch)


# What it is held to besides.


def test_two_pages_in_one_document_know_nothing_of_each_other(browser, trace, tmp_path):
    frame = trace.explore()._repr_html_()
    assert 'sandbox="allow-scripts allow-downloads"' in frame
    document = tmp_path / "notebook.html"
    document.write_text(
        f"<!doctype html><title>two</title><body>{frame.replace('lazy', 'eager') * 2}", "utf-8"
    )
    with opened(browser, document) as page:
        one, other = (handle.content_frame() for handle in page.query_selector_all("iframe"))
        for inside in (one, other):
            inside.wait_for_selector("html.ready")
        assert one.locator("[data-export=csv]").count() == 1
        assert one.locator("[data-export=link]").count() == 0  # a frame has no address
        before = other.evaluate("N.state.op")
        one.evaluate("N.step(1)")
        assert one.evaluate("N.state.op") != before == other.evaluate("N.state.op")
        one.evaluate("N.back()")
        one.wait_for_function("before => N.state.op === before", arg=before)


def test_pages_of_an_exported_notebook_open_without_a_network(browser, trace, tmp_path):
    """One page in each output; the style of nbconvert asks for scripts, which are not needed."""
    nbconvert = pytest.importorskip("nbconvert", reason="nbconvert is not installed")
    nbformat = importlib.import_module("nbformat.v4")
    display = {"text/html": trace.explore()._repr_html_().replace("lazy", "eager"), "text/plain": repr(trace)}
    outputs = [nbformat.new_output("display_data", display) for _ in range(2)]
    cells = [nbformat.new_code_cell("trace", outputs=[output]) for output in outputs]
    # else nbconvert asks IPython, which it does not require, how to colour the code
    python = {"language_info": {"name": "python", "pygments_lexer": "python"}}
    notebook = nbformat.new_notebook(cells=cells, metadata=python)
    exported, _ = nbconvert.HTMLExporter().from_notebook_node(notebook)
    (tmp_path / "notebook.html").write_text(exported, "utf-8")
    context = browser.new_context(offline=True)
    try:
        page = context.new_page()
        page.goto((tmp_path / "notebook.html").as_uri(), wait_until="commit")
        page.wait_for_selector("iframe >> nth=1", state="attached")
        for handle in page.query_selector_all("iframe"):
            inside = handle.content_frame()
            inside.wait_for_selector("html.ready")
            assert inside.evaluate("N.data.names").count("h.0.attn.heads.probs") == 1
    finally:
        context.close()


def test_it_is_quick(browser, tmp_path):
    """The best of some tries: what else a machine does is not the page's doing."""
    model = GPT.load("numgpt:tiny").astype("float64")
    ids = model.tokenizer.encode("It is a truth universally")[None]
    page_of_lesson = pages.explore(model.record(ids[:, :-1], ids[:, 1:]).trace(), tmp_path / "page.html")
    assert page_of_lesson.size < 2_000_000
    paint = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? 9999"
    paints, steps = [], []
    with opened(browser, tmp_path / "page.html") as page:
        for _ in range(3):
            page.reload()
            page.wait_for_timeout(100)
            paints.append(page.evaluate(paint))
        timed = """() => {
            const before = performance.now();
            N.go({op: 'h.0.mlp.c_proj'});
            document.body.offsetHeight;
            const after = performance.now();
            N.go({op: 'h.0.mlp.act'});
            return after - before;
        }"""
        while len(steps) < 80 and min(steps, default=99) > 50:
            steps.append(page.evaluate(timed))
        heap = page.evaluate("performance.memory.usedJSHeapSize")
    assert min(paints) < 1000 and min(steps) < 50 and heap < 150e6, (paints, steps, heap)


def test_a_step_lays_out_the_page_once(browser, file, trace, tmp_path):
    """A question where things lie, amid the drawing, lays it out one time more.

    A few objects are laid out again where scroll bars come or go. No formula is so wide here as to be opened.
    """
    walk = """async () => {
        for (const direction of ["fwd", "bwd"]) {
            for (const op of N.stepNames) {
                document.body.offsetHeight;
                performance.mark("begin");
                N.go({op, direction});
                performance.mark(`end of ${op}`);
                await N.settled();
            }
        }
    }"""
    with opened(browser, file, viewport={"width": 1700, "height": 500}) as page:
        page.evaluate("N.settled()")
        browser.start_tracing(page=page, categories=["devtools.timeline", "blink.user_timing"])
        page.evaluate(walk)
        events = json.loads(browser.stop_tracing())["traceEvents"]
    counts, count = {}, None
    for event in sorted(events, key=lambda event: event["ts"]):
        if event["name"] == "begin":
            count = 0
        elif event["name"] == "Layout" and count is not None:
            count += event["args"]["beginData"]["dirtyObjects"] > FEW
        elif event["name"].startswith("end of ") and count is not None:
            counts.setdefault(event["name"], []).append(count)
            count = None
    assert len(counts) == len([1 for step in trace.steps.values() if step.cost is not None])
    assert max(map(max, counts.values())) == 1, counts


def test_a_large_table_comes_whole(browser, file):
    """A table that grows on the page is laid out anew for each of its parts."""
    watch = """async () => {
        const heights = new Set();
        const table = document.querySelector(".of-value table");
        const look = () => heights.add(table.tBodies.length && table.tBodies[0].rows.length);
        N.go({tensor: "h.0.mlp.c_fc.weight"});
        await N.settled();
        new MutationObserver(look).observe(table, {childList: true, subtree: true});
        N.go({tensor: "h.0.mlp.c_proj.weight"});
        await N.settled();
        look();
        return [...heights];
    }"""
    with opened(browser, file) as page:
        assert page.evaluate(watch) == [32]


def test_csv_and_numpy_give_the_same_floats_again(shown, trace):
    name = "h.0.attn.heads.probs"
    rows = np.loadtxt(io.StringIO(shown.evaluate("name => N.csv(name)", name)), delimiter=",", skiprows=1)
    assert np.array_equal(rows[:, -2].reshape(trace.value[name].shape), trace.value[name])
    assert np.array_equal(rows[:, -1].reshape(trace.grad[name].shape), trace.grad[name])
    assert np.array_equal(rows[:, :-2], np.indices(trace.value[name].shape).reshape(4, -1).T)
    for made, which in (("h.0.mlp.c_fc", "value"), ("wte", "value"), ("h.0.mlp.c_fc", "grad")):
        code = shown.evaluate("([tensor, which]) => (N.go({tensor, which}), N.numpy())", [made, which])
        names = {}
        exec(code.replace("print(", "shown = ("), names)
        arrays = trace.value if which == "value" else trace.grad
        assert np.array_equal(names[made.replace(".", "_")], arrays[made]), made
    with shown.expect_download() as download:
        shown.evaluate("N.go({tensor: 'h.0.mid'})")
        shown.locator("#export summary").click()
        shown.locator("[data-export=svg]").click()
    assert Path(download.value.path()).read_text("utf-8").startswith("<svg")


def test_a_wrong_backward_is_red_where_it_is_wrong(browser, tmp_path):
    faulty = dataclasses.replace(ops.gelu_tanh, backward=lambda dy, saved: (dy,))
    model = model_of(activation="gelu_tanh", served={"h.1.mlp.act": faulty})
    pages.explore(model.record(TOKENS, TARGETS).trace(differences=3), tmp_path / "page.html")
    with opened(browser, tmp_path / "page.html", "#view=check") as page:
        assert page.evaluate("N.faults") == ["h.1.mlp.act"]
        assert page.locator(".row[data-verdict=fault]").get_attribute("data-op") == "h.1.mlp.act"
        assert "✗" in page.locator(".row[data-verdict=fault]").inner_text()
        assert "h.1.mlp.act" in page.locator(".verdict-line.wrong").inner_text()


@pytest.mark.parametrize("seed", range(3))
def test_no_op_is_blamed_whose_own_gradient_another_one_has_spoilt(browser, tmp_path, seed):
    """Of single entries some are right by chance. Where two ops add to a gradient, either may be the one."""

    def spoilt(dy, saved):
        dx, *others = ops.layernorm.backward(dy, saved)
        return 1.01 * dx, *others

    faulty = dataclasses.replace(ops.layernorm, backward=spoilt)
    record = model_of(n_head=4, n_embd=16, served={"h.1.ln_2": faulty}).record(TOKENS, TARGETS)
    entries = {}
    for name, grad in record.grad.items():
        drawn = int(np.random.default_rng([seed, len(entries)]).integers(grad.size))
        place = drawn if name.startswith("h.0.") else abs(grad).argmax()
        entries[name] = [tuple(map(int, np.unravel_index(place, grad.shape)))]
    pages.explore(record.trace(differences=entries), tmp_path / "page.html")
    with opened(browser, tmp_path / "page.html", "#view=check") as page:
        assert set(page.evaluate("N.faults")) == {"h.1.ln_2", "h.1.out"}
        assert "one or more of these" in page.locator(".verdict-line.wrong").inner_text()


@pytest.mark.parametrize("h", [explore.PAIR, explore.WIDTHS], ids=["two", "six"])
def test_a_loss_that_bends_within_the_width_accuses_nobody(browser, tmp_path, h):
    """A token of zeros, as that of padding: a norm without a mean bends the loss after it within √eps."""
    model = model_of(**LLAMA, norm_position="both")
    model.params["wte.weight"][0] = 0
    record = model.record(TOKENS, TARGETS)
    largest = {
        name: [tuple(map(int, np.unravel_index(abs(grad).argmax(), grad.shape)))]
        for name, grad in record.grad.items()
        if name not in model.params
    }
    pages.explore(record.trace(differences=largest, h=h), tmp_path / "page.html")
    with opened(browser, tmp_path / "page.html", "#view=check") as page:
        assert page.evaluate("N.faults") == []
        said = page.locator(".verdict-line.right").inner_text()
    assert "agree with finite differences" in said and "nothing can be told" in said


def test_ticks_of_a_chart_say_where_they_are(shown):
    read = """([low, high]) => {
        const series = [{label: "", points: [[low, low], [high, high]], mark: "line"}];
        const svg = N.chart({title: "", x: {label: ""}, y: {label: ""}, series});
        const [from, to] = [...svg.querySelectorAll("circle")].map(dot => Number(dot.getAttribute("cx")));
        const texts = [...svg.querySelectorAll("text[text-anchor=middle]")].slice(0, -1);
        return texts.map(text => [text.textContent, (text.getAttribute("x") - from) / (to - from)]);
    }"""
    for low, high in ((-0.3, 0.06), (0, 250), (-1e-4, 3e-4), (10, 130), (0, 4e6)):
        ticks = shown.evaluate(read, [low, high])
        assert len(ticks) > 1
        for text, share in ticks:
            assert abs(float(text.replace("−", "-")) - (low + share * (high - low))) < 5e-3 * (high - low), (
                text
            )


def test_a_long_sum_is_broken_on_a_narrow_screen(browser, file):
    address = "#op=h.0.mlp.c_fc&t=h.0.mlp.c_fc.weight&i=3,5&w=grad"
    with opened(browser, file, address, viewport={"width": 360, "height": 740}) as page:
        assert page.locator(".formula-line math").count() > 3
        assert (
            page.evaluate("(box => box.scrollWidth - box.clientWidth)(document.querySelector('.formula'))")
            <= 0
        )


def test_every_formula_fits_a_narrow_screen_and_says_the_same(browser, file):
    """Fractions, roots and brackets that are wider than the screen are opened."""
    walk = """async () => {
        const wide = [], numbers = {};
        for (const [direction, which] of [["fwd", "value"], ["bwd", "grad"]]) {
            for (const op of N.stepNames) {
                N.go({op, direction, which});
                await N.settled();
                const box = document.querySelector(".formula");
                if (!box) continue;
                if (box.scrollWidth > box.clientWidth) wide.push([op, direction]);
                numbers[`${op} ${direction}`] = [...box.querySelectorAll("mn")].map(one => one.textContent);
            }
        }
        return {wide, numbers};
    }"""
    said = []
    for width in (360, 1800):
        with opened(browser, file, viewport={"width": width, "height": 740}) as page:
            said.append(page.evaluate(walk))
    assert said[0]["wide"] == said[1]["wide"] == []
    assert said[0]["numbers"] == said[1]["numbers"] and len(said[0]["numbers"]) > 40


def test_right_gradients_are_called_right(shown):
    shown.evaluate("N.go({view: 'check'})")
    assert shown.evaluate("N.faults") == []
    assert shown.locator(".verdict-line.right").count() == 1


@pytest.mark.parametrize("name", ["h.1.mlp.c_fc.weight", "h.0.attn.heads.scores"])
def test_any_entry_is_measured_when_that_is_asked(shown, trace, name):
    grad = trace.grad[name]
    index = [int(i) for i in np.unravel_index(abs(grad).argmax(), grad.shape)]
    shown.evaluate("([tensor, index]) => N.go({tensor, index, which: 'grad', view: 'check'})", [name, index])
    shown.get_by_role("button", name="Measure this entry now").click()
    numbers = shown.locator(".facts output").all_inner_texts()
    by_hand, difference = (float(text.replace("−", "-")) for text in numbers)
    assert by_hand == pytest.approx(trace.grad[name][tuple(index)], rel=1e-11)
    assert difference == pytest.approx(by_hand, abs=1e-7)
    assert shown.locator(".chart .series circle").count() > 10


def test_the_lens_of_the_last_block_is_what_the_model_says(shown, trace):
    logits = np.array(shown.evaluate("N.lens('h.1').map(answer => [...answer.logits])"))
    np.testing.assert_allclose(logits, trace.value["lm_head"][0], rtol=0, atol=1e-12)
    losses = shown.evaluate("N.losses().map(one => one.loss)")
    assert losses[-1] is None
    assert math.isclose(np.mean(losses[:-1]), float(trace.value["loss"]), rel_tol=1e-12)
