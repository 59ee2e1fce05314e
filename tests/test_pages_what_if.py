"""The views that compute: what they show is what Python computes, for each change that a reader can make."""

import dataclasses

import numpy as np
import pytest
from browser import browser, opened  # noqa: F401

from numgpt import GPT, AdamW, Config, Training, pages, tokenizers

SMALL = Config(vocab_size=9, block_size=8, n_layer=2, n_head=2, n_embd=8)
TOKENS, TARGETS = [0, 3, 1, 3, 4, 2], [3, 1, 3, 4, 2, 5]
LETTERS = "abcdefghi"
ROUNDING = 1e-12
SHOWN = 1e-5  # of a number of six digits


def model_of(config=SMALL):
    """A small model whose numbers are as large as those of a trained one."""
    model = GPT(config, seed=0, dtype="float64", tokenizer=tokenizers.Characters(LETTERS))
    model.params.flat += 0.3 * np.random.default_rng(0).standard_normal(model.params.flat.shape)
    return model


def trace_of(model, **edits):
    """The trace of its run, with the text of every token."""
    trace = model.record(TOKENS, TARGETS, **edits).trace()
    trace.texts.update(enumerate(LETTERS[: model.config.vocab_size]))
    return trace


@pytest.fixture(scope="module")
def model():
    return model_of()


@pytest.fixture(scope="module")
def page_file(model, tmp_path_factory):
    file = tmp_path_factory.mktemp("page") / "page.html"
    other = model.astype("float64")
    other.params["h.1.attn.c_attn.weight"][3, 5] += 1e-3
    pages.explore(trace_of(model), file, beside=trace_of(other))
    return file


def number(text):
    """A number as the page writes it."""
    return float(text.replace("−", "-").replace("+", "").replace("∞", "inf"))


def fact(page, name):
    """The number of a line such as "Δ loss"."""
    return number(
        page.locator(f"#view dt:text-is('{name}') + dd, #view dt:text-is('{name}')")
        .locator("xpath=following-sibling::dd[1]")
        .first.inner_text()
    )


# What if a number were another one?


@pytest.mark.parametrize(
    "address, name, index",
    [
        ("t=h.0.mlp.c_fc.weight&i=3,5", "h.0.mlp.c_fc.weight", (3, 5)),
        ("t=wte.weight&i=3,1", "wte.weight", (3, 1)),
        ("t=h.1.attn.heads.scores&i=1,4,2", "h.1.attn.heads.scores", (1, 4, 2)),
        ("t=h.0&i=2,7", "h.0", (2, 7)),
    ],
)
def test_the_loss_of_another_number_is_pythons(browser, page_file, model, address, name, index):
    trace = model.record(TOKENS, TARGETS)
    values = model.params if name in model.params else trace.value

    def rise(delta):
        if name in model.params:
            other = model.astype("float64")
            other.params[name][index] += delta
            return other.loss(TOKENS, TARGETS) - float(trace.value["loss"])
        moved = values[name].copy()
        moved[index] += delta
        edited = model.record(TOKENS, TARGETS, edit={name: lambda a: moved})
        return float(edited.value["loss"] - trace.value["loss"])

    with opened(browser, page_file, f"#{address}&view=what_if") as page:
        slider = page.locator("#view input[type=range]")
        for press in ("End", "Home", "ArrowRight"):
            slider.press(press)
            before, after = page.locator("#view dd").first.inner_text().split(" → ")
            assert number(before) == pytest.approx(values[name][index], rel=SHOWN)
            delta = slider.evaluate("input => input.value / 24 * input.dataset.reach")
            assert number(after) == pytest.approx(values[name][index] + delta, rel=SHOWN)
            predicted, actual = (number(page.locator("#view dd").nth(n).inner_text()) for n in (1, 2))
            assert predicted == pytest.approx(delta * trace.grad[name][index], rel=SHOWN)
            assert actual == pytest.approx(rise(delta), rel=SHOWN, abs=1e-12)


def test_the_prediction_is_off_by_a_tenth_where_it_is_said_to_end(browser, page_file):
    with opened(browser, page_file, "#t=h.0.mlp.c_fc.weight&i=3,5&view=what_if") as page:
        assert float(page.locator("#view .band").get_attribute("width")) > 1
        text = page.locator("#view .verdict-line").inner_text()
        assert "holds to 10 % from δ = −" in text


def test_a_loss_that_does_not_depend_on_a_number_stays(browser, page_file):
    """The vector of a position that the text does not reach."""
    with opened(browser, page_file, "#t=wpe.weight&i=7,0&view=what_if") as page:
        assert "gradient is 0" in page.locator("#view .verdict-line").inner_text()
        assert number(page.locator("#view dd").nth(2).inner_text()) == 0


def test_a_gradient_is_measured_by_the_engine(browser, page_file, model):
    """Of a parameter and of a value, in the view of checks."""
    with opened(browser, page_file, "#view=check") as page:
        for name, index in (("h.1.ln_2.weight", (3,)), ("h.0.attn.heads.q", (1, 2, 3))):
            page.evaluate("([name, index]) => N.go({ tensor: name, index })", [name, list(index)])
            page.locator("#view button", has_text="easure").click()
            gradient = model.record(TOKENS, TARGETS).grad[name][index]
            by_hand, measured = (number(page.locator("#view dd output").nth(n).inner_text()) for n in (0, 1))
            assert by_hand == pytest.approx(gradient, rel=1e-10)
            assert measured == pytest.approx(gradient, abs=1e-7)


# Another prompt, and edits.


def test_a_walk_leaves_the_view_of_prompts_as_it_is(browser, page_file):
    """Its elements stay the same ones until the reader changes something there."""
    with opened(browser, page_file, "#view=prompt&op=wte") as page:
        page.evaluate("window.before = [...document.getElementById('view').children]")
        page.evaluate("N.step(1)")
        same = (
            "before.length && before.every((one, n) => one === document.getElementById('view').children[n])"
        )
        assert page.evaluate(same)
        page.locator("[data-key=form-add]").click()
        assert not page.evaluate(same)


def test_another_prompt_is_run_as_python_runs_it(browser, page_file, model):
    with opened(browser, page_file, "#view=prompt") as page:
        box = page.locator("[data-key=tokens-text]")
        assert box.input_value() == "".join(LETTERS[i] for i in TOKENS)
        box.fill("bdbdhc")
        box.press("Enter")
        tokens, targets = [1, 3, 1, 3, 7, 2], [3, 1, 3, 7, 2, TARGETS[-1]]
        assert fact(page, "loss after") == pytest.approx(model.loss(tokens, targets), rel=SHOWN)
        assert fact(page, "loss before") == pytest.approx(model.loss(TOKENS, TARGETS), rel=SHOWN)
        assert page.evaluate("document.activeElement.dataset.key") == "tokens-text"
        box.fill("bdz")
        box.press("Enter")
        assert "no token for z" in page.locator("#view [role=alert]").inner_text()
        box.fill("bdbdbdbdb")
        box.press("Enter")
        assert "9 tokens, expected at most 8" in page.locator("#view [role=alert]").inner_text()


def test_the_view_says_what_follows_the_prompt_as_the_title_has_it(browser, page_file):
    with opened(browser, page_file, "#view=prompt") as page:
        assert page.locator("h1").inner_text() == "adbdecf"
        assert page.locator("[data-key=tokens-text]").input_value() == "adbdec"
        assert page.locator("#view .note").inner_text() == "f follows: the last token predicts it."


def test_tokens_are_chosen_inserted_and_removed(browser, page_file):
    with opened(browser, page_file, "#view=prompt") as page:
        page.locator("[data-key=tokens-2]").click()
        page.locator("[data-key=tokens-choice]").select_option("8")
        assert page.evaluate("N.lab.change().tokens") == [0, 3, 8, 3, 4, 2]
        page.locator("[data-key=tokens-insert]").click()
        assert page.evaluate("N.lab.change().tokens") == [0, 3, 8, 8, 3, 4, 2]
        page.locator("[data-key=tokens-remove]").click()
        page.locator("[data-key=tokens-remove]").click()
        assert page.evaluate("N.lab.change().tokens") == [0, 3, 3, 4, 2]
        assert page.evaluate("document.activeElement.dataset.key") == "tokens-remove"
        page.locator("[data-key=reset]").click()
        assert page.evaluate("N.lab.change().tokens") == TOKENS


def edited(model, name, function):
    return float(model.record(TOKENS, TARGETS, edit={name: function}).value["loss"])


def test_a_head_a_token_and_all_of_a_value_are_switched_off(browser, page_file, model):
    def without(*place):
        def function(a):
            a = a.copy()
            a[place] = 0 * a[place]
            return a

        return function

    cases = [
        ("h.0.mlp", {}, without(...)),
        ("h.1.attn", {"token": "4"}, without(4)),
        ("h.0.attn.heads.probs", {"head": "1"}, without(1)),
        ("h.1.attn.heads.v", {"head": "0", "token": "2"}, without(0, 2)),
    ]
    with opened(browser, page_file, "#view=prompt") as page:
        for name, chosen, function in cases:
            page.locator("[data-key=form-name]").select_option(name)
            for key in ("head", "token"):
                field = page.locator(f"[data-key=form-{key}]")
                if field.count():
                    field.select_option(chosen.get(key, ""))
            page.locator("[data-key=form-add]").click()
            assert fact(page, "loss after") == pytest.approx(edited(model, name, function), rel=SHOWN), name
            page.locator("#view .edits button").click()
            assert fact(page, "Δ loss") == 0


def test_a_value_is_patched_from_another_prompt(browser, page_file, model):
    other = [0, 3, 1, 7, 4, 2]
    patch = model.record(other).value["h.0"]
    with opened(browser, page_file, "#view=prompt") as page:
        page.locator("[data-key=form-kind]").select_option("patch")
        box = page.locator("[data-key=other-text]")
        box.fill("".join(LETTERS[i] for i in other))
        box.press("Enter")
        page.locator("[data-key=form-name]").select_option("h.0")
        page.locator("[data-key=form-token]").select_option("3")
        page.locator("[data-key=form-add]").click()

        def patched(a):
            a = a.copy()
            a[3] = patch[3]
            return a

        assert fact(page, "loss after") == pytest.approx(edited(model, "h.0", patched), rel=SHOWN)
        box = page.locator("[data-key=other-text]")
        box.fill("ab")
        box.press("Enter")
        assert "different numbers of tokens" in page.locator("#view [role=alert]").inner_text()


# Attribution beside patching.


def ranks(numbers):
    return np.array([(numbers < x).sum() + ((numbers == x).sum() - 1) / 2 for x in numbers])


@pytest.mark.parametrize("group", ["parts", "stream", "heads"])
def test_attribution_and_patches_are_pythons(browser, page_file, model, group):
    run = model.record(TOKENS, TARGETS)
    with opened(browser, page_file, "#view=attribution") as page:
        page.locator("#view select").select_option(group)
        other = model.record(page.evaluate("N.lab.change().other")).value
        shown = page.locator("#view tbody tr").evaluate_all(
            "rows => rows.map(row => [row.querySelector('button').textContent,"
            " row.querySelector('bdi').textContent.split(' ')[0], row.querySelector('small')?.textContent,"
            " ...[...row.querySelectorAll('td b')].map(b => b.textContent)])"
        )
        correlation = number(page.locator("#view .agreement").inner_text())
    names = {"parts": 4, "stream": 3, "heads": 4}
    assert len(shown) == len({tuple(row[:3]) for row in shown}) == names[group] * len(TOKENS)
    guesses, losses = [], []
    for name, t, head, guess, loss in shown:
        place = int(t), ...
        if head:
            D, h = SMALL.head_size, int(head.split()[-1])
            place = int(t), slice(h * D, (h + 1) * D)

        def patched(a, place=place, name=name):
            a = a.copy()
            a[place] = other[name][place]
            return a

        guesses.append((run.grad[name][place] * (other[name][place] - run.value[name][place])).sum())
        losses.append(edited(model, name, patched) - float(run.value["loss"]))
        assert number(guess) == pytest.approx(guesses[-1], rel=5e-3, abs=1e-14), name
        assert number(loss) == pytest.approx(losses[-1], rel=5e-3, abs=1e-14), name
    rounded = np.array([(float(f"{g:.3g}"), float(f"{x:.3g}")) for g, x in zip(guesses, losses)])
    expected = np.corrcoef(*map(ranks, rounded.T))[0, 1]
    assert correlation == pytest.approx(expected, abs=0.03)


def test_the_rank_correlation_is_that_of_numpy(browser, page_file):
    with opened(browser, page_file) as page:
        for seed in range(5):
            a, b = np.random.default_rng(seed).integers(0, 6, (2, 15)).astype(float)
            found = page.evaluate("([a, b]) => N.lab.rankCorrelation(a, b)", [a.tolist(), b.tolist()])
            assert found == pytest.approx(np.corrcoef(ranks(a), ranks(b))[0, 1], rel=ROUNDING)


# AdamW.


def drawn(seed):
    """Settings that nobody chose: without decay and with much, not clipped, often and seldom."""
    rng = np.random.default_rng(seed)
    return {
        "beta1": float(rng.uniform(0, 0.99)),
        "beta2": float(rng.uniform(0.5, 0.999)),
        "eps": float(10.0 ** rng.integers(-12, -2)),
        "weight_decay": float(rng.choice([0, 0.1, 3.0])),
        "clip": float(rng.choice([0, 0.5, 1e9])),
        "lr": float(rng.uniform(0, 0.1)),
    }


def expect_numgpts_steps(page, settings, names=("h.0.mlp.c_fc.weight", "h.1.ln_2.bias")):
    """Raise AssertionError unless three steps of four weights of each name are those of numgpt's AdamW."""
    model = model_of()
    betas = settings["beta1"], settings["beta2"]
    optimizer = AdamW(model, betas, settings["eps"], settings["weight_decay"], settings["clip"])
    state = {"w": model.params, "m": optimizer.m, "v": optimizer.v}
    script = "([all, settings, norm]) => all.map(([one, isMatrix]) => N.adamw(one, settings, norm, isMatrix))"
    for t in (1, 2, 3):
        _, grads = model.loss_and_grads(TOKENS, TARGETS)
        before = []
        for name in names:
            columns = [arrays[name].ravel()[:4].tolist() for arrays in (*state.values(), grads)]
            before += [[dict(zip("wmvg", one)), name.endswith("weight")] for one in zip(*columns)]
        found = page.evaluate(script, [before, {**settings, "t": t}, float(optimizer.norm(grads))])
        optimizer.step(grads, settings["lr"])
        for key, arrays in state.items():
            expected = np.concatenate([arrays[name].ravel()[:4] for name in names])
            assert np.allclose([one[key] for one in found], expected, rtol=ROUNDING, atol=0), key


def test_steps_of_adamw_are_numgpts(browser, page_file):
    with opened(browser, page_file) as page:
        for seed in range(8):
            expect_numgpts_steps(page, drawn(seed))


def test_the_view_shows_the_step_with_its_moments(browser, tmp_path):
    model = model_of()
    optimizer = AdamW(model)
    for _ in range(2):
        optimizer.step(model.loss_and_grads(TOKENS, TARGETS)[1], lr=1e-2)
    name, index = "h.0.attn.c_attn.weight", (3, 5)
    file = tmp_path / "page.html"
    record = model.record(TOKENS, TARGETS)
    pages.explore(record.trace(moments=optimizer.state()), file)
    with opened(browser, file, f"#t={name}&i=3,5&view=adamw") as page:
        field = page.locator("[data-key=t]")
        field.fill("3")
        field.press("Enter")
        assert page.evaluate("document.activeElement.dataset.key") == "t"
        shown = [number(text) for text in page.locator(".adamw-lines .number").all_inner_texts()]
        optimizer.step(record.grads, lr=Training().lr)
        assert shown[1] == pytest.approx(optimizer.m[name][index], rel=1e-7)
        assert shown[2] == pytest.approx(optimizer.v[name][index], rel=1e-7)
        assert shown[-1] == pytest.approx(model.params[name][index], rel=1e-7)
        page.locator("[data-key=ten]").click()
        assert page.locator("#view .chart circle").count() == 11
        page.locator("[data-key=restart]").click()
        assert page.locator("#view .chart").count() == 0


def test_the_defaults_of_adamw_are_those_of_a_training(browser, page_file):
    with opened(browser, page_file, "#t=wte.weight&i=0,0&view=adamw") as page:
        for key in ("lr", "beta1", "beta2", "eps", "weight_decay", "clip"):
            shown = float(page.locator(f"[data-key={key}]").input_value())
            assert shown == dataclasses.asdict(Training())[key], key


# Two traces beside each other.


def test_the_first_op_that_parts_is_the_one_that_was_changed(browser, page_file, model):
    other = model.astype("float64")
    other.params["h.1.attn.c_attn.weight"][3, 5] += 1e-3
    one, two = (m.record(TOKENS, TARGETS) for m in (model, other))
    with opened(browser, page_file, "#t=h.1.attn.c_attn&i=3,5&view=beside") as page:
        first = [line.inner_text() for line in page.locator("#view .verdict-line").all()]
        assert "h.1.attn.c_attn (" in first[0]
        assert "∂lm_head (" in first[1]
        rows = page.locator("#view .scroll-y tbody tr").evaluate_all(
            "rows => rows.map(row => [row.querySelector('button'), ...row.querySelectorAll('td b')]"
            ".map(part => part.textContent))"
        )
        for name, value, grad in rows:
            for kind, shown in (("value", value), ("grad", grad)):
                a, b = getattr(one, kind)[name], getattr(two, kind)[name]
                expected = np.linalg.norm(a - b) / np.linalg.norm(a)
                assert number(shown) == pytest.approx(expected, rel=1e-2, abs=1e-15), (name, kind)
        cell = page.locator("#view tr.here td.number").all_inner_texts()[-3:]
        expected = [r.value["h.1.attn.c_attn"][3, 5] for r in (one, two)]
        assert [number(text) for text in cell[:2]] == pytest.approx(expected, rel=1e-7)
        page.locator("#view select").select_option("0.1")
        assert "All values agree to 0.1" in page.locator("#view").inner_text()


def test_what_two_traces_have_in_common_is_counted_where_it_is_not_all(browser, model, tmp_path):
    other = trace_of(model_of(dataclasses.replace(SMALL, vocab_size=7, n_embd=16, n_head=4)))
    pages.explore(trace_of(model), tmp_path / "page.html", beside=other)
    with opened(browser, tmp_path / "page.html", "#view=beside") as page:
        assert " gradients 1 can be compared, and agree" in page.locator("#view").inner_text()


# What cannot be computed, and how the views are used.


@pytest.mark.parametrize(
    "changes, edits, reason",
    [
        ({"positions": "rotary"}, {}, 'positions is "rotary"'),
        ({"activation": "swiglu"}, {}, 'activation is "swiglu"'),
        ({"n_kv_head": 1}, {}, "n_kv_head is 1"),
        ({}, {"edit": {"h.0": lambda a: 2 * a}}, "edited at h.0"),
        ({}, {}, "not hold all numbers of h.1.ln_1.weight"),
    ],
)
def test_a_view_says_why_it_cannot_compute(browser, tmp_path, changes, edits, reason):
    model = model_of(dataclasses.replace(SMALL, **changes))
    blocks = [0] if "not hold" in reason else None
    pages.explore(trace_of(model, **edits), tmp_path / "page.html", blocks=blocks)
    with opened(browser, tmp_path / "page.html") as page:
        for view in ("what_if", "prompt", "attribution"):
            page.locator(f"#tab-{view}").click()
            assert reason in page.locator("#view").inner_text(), view


def expect_accessible(page, axe):
    """Raise AssertionError unless the view has no serious fault, targets of 24 pixels, and few tab stops."""
    found = axe.run(page, context="#view")
    serious = [v for v in found.response["violations"] if v["impact"] in ("serious", "critical")]
    assert not serious, [(v["id"], v["nodes"][0]["html"]) for v in serious]
    small = page.locator("#view :is(button, select, input, summary)").evaluate_all(
        "all => all.filter(e => e.offsetParent && e.getBoundingClientRect().height < 23.5)"
        ".map(e => e.outerHTML.slice(0, 90))"
    )
    assert not small
    stops = "#view :is(button, select, input, summary, a, [tabindex]):not([tabindex='-1'])"
    assert page.locator(stops).evaluate_all("all => all.filter(e => e.offsetParent).length") <= 20


def test_the_views_are_accessible_and_fit_a_phone(browser, page_file):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed").Axe()
    address = "#t=h.0.attn.c_attn.weight&i=3,5&view=what_if"
    with opened(browser, page_file, address, viewport={"width": 360, "height": 900}) as page:
        for view in ("what_if", "prompt", "attribution", "adamw", "beside"):
            page.locator(f"#tab-{view}").click()
            page.locator("#view .columns, #view .adamw-lines").first.wait_for()
            assert page.evaluate("document.documentElement.scrollWidth") <= 360, view
            expect_accessible(page, axe)


# The whole page anew.


def test_the_whole_page_shows_the_changed_run(browser, page_file, model):
    """Every value and gradient of another prompt with a head switched off, and what is asked of it next."""
    tokens, targets = [1, 3, 1, 3, 7, 2, 0], [3, 1, 3, 7, 2, 0, -1]

    def without(a):
        a = a.copy()
        a[1] = 0 * a[1]
        return a

    trace = model.record(tokens, targets, edit={"h.0.attn.heads.probs": without}).trace()
    with opened(browser, page_file, "#t=h.0.mlp.c_fc.weight&i=3,5&view=prompt") as page:
        box = page.locator("[data-key=tokens-text]")
        box.fill("bdbdhca")
        box.press("Enter")
        page.locator("[data-key=form-name]").select_option("h.0.attn.heads.probs")
        page.locator("[data-key=form-head]").select_option("1")
        page.locator("[data-key=form-add]").click()
        page.locator("[data-key=everywhere]").click()
        page.wait_for_selector("html.ready")
        assert page.locator("h1").inner_text() == "bdbdhca · changed"
        for name in trace.names:
            for which, arrays in (("value", trace.value), ("grad", trace.grad)):
                found = page.evaluate("([name, which]) => [...N.tensor(name)[which]]", [name, which])
                apart = abs(np.array(found) - arrays[name].ravel()).max()
                assert apart <= ROUNDING * abs(arrays[name]).max(), (name, which)
        assert page.locator("#view .edits li").count() == 1
        page.locator("#tab-what_if").click()
        predicted = number(page.locator("#view dd").nth(1).inner_text())
        slider = page.locator("#view input[type=range]")
        delta = slider.evaluate("input => input.value / 24 * input.dataset.reach")
        assert predicted == pytest.approx(delta * trace.grad["h.0.mlp.c_fc.weight"][3, 5], rel=SHOWN)
        page.locator("#tab-prompt").click()
        page.locator("[data-key=original]").click()
        page.wait_for_function("!N.data.anew")
        assert page.evaluate("N.tokens()") == TOKENS


# Pages that are not as others.


def nan_at(name):
    """The small model with a number that is none."""
    model = model_of()
    model.params[name].flat[3] = np.nan
    return model


UNUSUAL = {
    "one token": (model_of, [[2]], [[1]]),
    "one word": (lambda: model_of(dataclasses.replace(SMALL, vocab_size=1)), [0, 0, 0], [0, 0, 0]),
    "two rows": (model_of, [TOKENS, TOKENS[::-1]], [TARGETS, [-1, 3, -1, 1, 0, 2]]),
    "NaN": (lambda: nan_at("h.0.mlp.c_fc.weight"), TOKENS, TARGETS),
    "float32": (lambda: model_of().astype("float32"), [TOKENS], [TARGETS]),
    "no texts": (lambda: GPT(SMALL, seed=0, dtype="float64"), [TOKENS], [TARGETS]),
    "no blocks": (lambda: model_of(dataclasses.replace(SMALL, n_layer=0)), TOKENS, TARGETS),
    "no targets": (model_of, TOKENS, None),
}


@pytest.mark.parametrize("case", UNUSUAL)
def test_an_unusual_page_opens_in_every_view(browser, tmp_path, case):
    """And where the engine runs it, the view of prompts says the loss of the row that is looked at."""
    make, tokens, targets = UNUSUAL[case]
    model = make()
    pages.explore(model.record(tokens, targets).trace(), tmp_path / "page.html")
    row = np.atleast_2d(tokens)[-1].tolist()
    with opened(browser, tmp_path / "page.html") as page:
        if case == "two rows":
            page.evaluate("N.go({ tensor: 'wte', index: [1, 0, 0] })")
        for view in page.evaluate(
            "[...document.querySelectorAll('#tabs button')].map(tab => tab.dataset.view)"
        ):
            page.locator(f"#tab-{view}").click()
            page.wait_for_timeout(60)
            assert page.locator("#view").inner_text().strip(), view
        page.locator("#tab-prompt").click()
        assert page.evaluate("N.tokens()") == row
        if targets is not None:
            expected = model.loss(row, np.atleast_2d(targets)[-1])
            found = fact(page, "loss before")
            assert found == pytest.approx(float(expected), rel=1e-4, nan_ok=True)
            page.locator("[data-key=everywhere]").click()
            page.wait_for_selector("html.ready")
            assert page.evaluate("N.data.ids.tokens.shape") == [1] * (np.ndim(tokens) - 1) + [len(row)]
            assert fact(page, "loss before") == pytest.approx(float(expected), rel=1e-4, nan_ok=True)


def test_a_page_in_a_notebooks_frame_is_changed_and_comes_back(browser, model, tmp_path):
    """The frame is a sandbox: the page has no address of its own there."""
    html = pages.explore(trace_of(model))._repr_html_()
    (tmp_path / "notebook.html").write_text(f"<!doctype html><meta charset=utf-8>{html}", "utf-8")
    with opened(browser, tmp_path / "notebook.html") as page:
        frame = page.query_selector("iframe").content_frame()
        frame.wait_for_selector("html.ready")
        frame.locator("#tab-prompt").click()
        frame.locator("[data-key=form-add]").click()
        frame.locator("[data-key=everywhere]").click()
        frame.wait_for_function("document.querySelector('h1').textContent.endsWith('changed')")
        assert frame.evaluate("N.data.edited") == ["h.0.attn"]
        frame.locator("#tab-prompt").click()
        frame.locator("[data-key=original]").click()
        page.wait_for_timeout(300)
        frame = page.query_selector("iframe").content_frame()
        frame.wait_for_selector("html.ready")
        assert frame.evaluate("N.data.edited") == []
