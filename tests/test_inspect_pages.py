"""Pages of attention and of patches: the numbers are NumPy's, and hands, keys and addresses lead to them."""

import base64
import json
import re

import numpy as np
import pytest
from browser import browser, opened  # noqa: F401

from numgpt import GPT, Config, InputError, pages
from numgpt.interpretability import activation_patching, attention_maps, logit_difference
from numgpt.pages import selecting
from numgpt.tokenizers import Characters

LETTERS = Characters("\n <abcd")
PROMPT = "ab\n a<b"


@pytest.fixture(scope="module")
def model():
    config = Config(vocab_size=7, block_size=8, n_layer=3, n_head=2, n_embd=8)
    model = GPT(config, seed=0, dtype="float64", tokenizer=LETTERS)
    model.params.flat *= 10
    return model


@pytest.fixture(scope="module")
def maps(model):
    return attention_maps(model, PROMPT)


@pytest.fixture(scope="module")
def patches(model):
    """What is patched by kind of site: the stream, and each head."""
    pair = (model, PROMPT, "ad" + PROMPT[2:], logit_difference(model, "a", "b"))
    return {at: activation_patching(*pair, at) for at in ("resid_pre", "heads")}


@pytest.fixture(scope="module")
def files(maps, patches, tmp_path_factory):
    """The pages as files, by name."""
    folder = tmp_path_factory.mktemp("pages")
    pages.attention(maps, folder / "attention.html", tokenizer=LETTERS)
    for at, found in patches.items():
        pages.patching(found, folder / f"{at}.html", tokenizer=LETTERS, title="</script><b>")
    return folder


def data_of(page):
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page.html, re.DOTALL)
    return json.loads(text)


def floats(text):
    return np.frombuffer(base64.b64decode(text), "<f4")


# What is packed.


def test_a_page_asks_for_no_other_file_and_no_text_ends_its_script(files):
    for name in ("attention", "resid_pre", "heads"):
        html = (files / f"{name}.html").read_text("utf-8")
        assert "default-src 'none'" in html and html.count("</script>") == 3
        assert not re.findall(r"(?:src|href)\s*=\s*[\"']?(?!#)[\w/:.]+|@import|url\(|fetch\(", html)


def test_what_is_packed_is_what_was_found(maps, patches):
    data = data_of(pages.attention(maps, tokenizer=LETTERS, layers=[2, 0], heads=[1]))
    assert data["tokens"] == list(PROMPT) and [m["layer"] for m in data["maps"]] == [2, 0]
    for packed in data["maps"]:
        expected = maps.maps[packed["layer"]][0, packed["heads"]]
        np.testing.assert_array_equal(floats(packed["data"]), expected.astype("f4").reshape(-1))
    assert pages.attention(maps).title == " ".join(map(str, maps.ids[0]))
    for found in patches.values():
        data = data_of(pages.patching(found))
        np.testing.assert_array_equal(floats(data["share"]), found.share.astype("f4").reshape(-1))
        assert (data["clean"], data["corrupted"]) == (found.clean, found.corrupted)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"layers": [3]}, r"^attention: layers has 3, expected some of 0 to 2$"),
        ({"heads": []}, r"^attention: heads is empty, expected some of 0 to 1$"),
        ({"path": "nowhere/page.html"}, r"nowhere/page.html: its folder does not exist"),
    ],
)
def test_what_cannot_be_shown_is_one_line(maps, arguments, match, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=match):
        pages.attention(maps, **arguments)


def test_a_page_that_is_too_large_is_refused(maps, tmp_path, monkeypatch):
    monkeypatch.setattr(selecting, "MOST", 1000)
    with pytest.raises(InputError, match=r"^attention: the page would have \d MB, expected at most"):
        pages.attention(maps, tmp_path / "page.html")
    assert not list(tmp_path.iterdir())


# In a browser.


def token(page, t):
    return page.locator(".tok").nth(t)


def shares(page):
    """What the tokens say of themselves."""
    labels = page.eval_on_selector_all(".tok", "all => all.map(one => one.getAttribute('aria-label'))")
    return [float(label.rpartition(": ")[2]) for label in labels]


@pytest.fixture
def attention(browser, files):
    with opened(browser, files / "attention.html") as page:
        assert page.locator("html.ready").count() == 1
        yield page


def test_a_token_that_is_pointed_at_shows_what_it_reads(attention, maps):
    page = attention
    assert page.title().startswith("ab a<b") and page.locator(".tok").count() == len(PROMPT)
    for layer, head in ((0, 1), (2, 0)):
        page.get_by_role("radio", name=f"layer {layer}, head {head}").click()
        for t in (6, 3, 0):
            token(page, t).hover()
            np.testing.assert_allclose(shares(page), maps.maps[layer][0, head, t], atol=5.1e-3)
    page.get_by_role("radio", name="Is read by").click()
    token(page, 3).hover()
    np.testing.assert_allclose(shares(page)[3:], maps.maps[2][0, 0, 3:, 3], atol=5.1e-3)
    page.mouse.move(0, 0)  # away from the text: the token that was chosen is back
    np.testing.assert_allclose(shares(page)[6:], maps.maps[2][0, 0, 6:, 6], atol=5.1e-3)


def test_keys_lead_to_every_head_and_token_and_the_address_leads_back(attention, browser, files, maps):
    page = attention
    page.locator(".thumb[aria-checked=true]").focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    assert page.evaluate("[N.state.layer, N.state.head]") == [1, 1]
    assert page.evaluate("document.activeElement.getAttribute('aria-checked')") == "true"
    page.keyboard.press("Tab")  # one stop for all heads, one for all tokens
    page.keyboard.press("ArrowLeft")
    assert page.evaluate("N.state.token") == 5
    said = page.locator("#live").inner_text()
    largest = maps.maps[1][0, 1, 5].argmax()
    assert said.startswith("“<” at 5 reads from “") and f"at {largest}: " in said.partition(",")[0]
    address = page.evaluate("location.hash")
    with opened(browser, files / "attention.html", address) as again:
        assert again.evaluate("[N.state.layer, N.state.head, N.state.token]") == [1, 1, 5]


def test_the_picture_of_a_head_is_its_map(attention, maps):
    read = """() => {
        const canvas = document.getElementById("map");
        const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
        return Array.from({ length: data.length / 4 }, (_, n) => 255 - data[4 * n + 2]);
    }"""
    blue = np.array(attention.evaluate(read)).reshape(len(PROMPT), len(PROMPT))
    P, below = maps.maps[0][0, 0], np.tri(len(PROMPT), dtype=bool)
    order = np.argsort(P[below])
    assert (np.diff(blue[below][order]) >= 0).all() and np.ptp(blue[below]) > 50
    assert len(set(blue[~below].tolist())) == 1


@pytest.mark.parametrize("at", ["resid_pre", "heads"])
def test_a_cell_of_a_map_says_what_it_brings_back_by_mouse_and_keys(browser, files, patches, at):
    found = patches[at]
    share = found.share if at == "resid_pre" else found.share.swapaxes(1, 2).reshape(6, -1)
    with opened(browser, files / f"{at}.html") as page:
        assert page.locator("h1").inner_text() == "</script><b>"
        cells = page.locator("[role=gridcell]")
        assert cells.count() == share.size
        largest = np.unravel_index(abs(share).argmax(), share.shape)
        assert page.evaluate("[N.state.row, N.state.column]") == list(largest)

        def number(name):
            return float(page.locator(f"#{name}").inner_text().replace("−", "-"))

        for row, column in ((0, 1), (2, 6), (1, 3)):
            cells.nth((len(share) - 1 - row) * share.shape[1] + column).hover()  # the last row stands first
            assert abs(number("share") - share[row, column]) <= 5.1e-5
            became = found.corrupted + share[row, column] * (found.clean - found.corrupted)
            assert abs(number("metric") - became) <= 1e-4 * max(1, abs(became))
        page.locator("[role=gridcell][tabindex='0']").focus()
        page.keyboard.press("Home")
        for _ in share:
            page.keyboard.press("ArrowDown")
        page.keyboard.press("ArrowRight")
        assert page.evaluate("[N.state.row, N.state.column]") == [0, 1]
        page.keyboard.press("ArrowUp")
        page.keyboard.press("ArrowLeft")
        assert page.evaluate("[N.state.row, N.state.column]") == [1, 0]
        page.keyboard.press("End")
        assert page.evaluate("[N.state.row, N.state.column]") == [1, len(PROMPT) - 1]
        cells.nth((len(share) - 1) * share.shape[1] + 1).click()
        where = page.locator("#where").inner_text()
        assert where.startswith("layer 0") and where.endswith("“d” at 1")


@pytest.mark.parametrize("name", ["attention", "heads"])
@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_wider_than_the_window_and_everything_has_a_name(browser, files, name, width, scheme):
    size = {"width": width, "height": 800}
    with opened(browser, files / f"{name}.html", viewport=size, color_scheme=scheme) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        nameless = "all => all.filter(e => !(e.getAttribute('aria-label') || e.textContent.trim())).length"
        controls = "button, [role=gridcell], [role=radiogroup], [role=toolbar], [role=grid], [role=img]"
        assert page.eval_on_selector_all(controls, nameless) == 0
        inside = "all => all.filter(e => e.tabIndex === 0).length"
        assert page.eval_on_selector_all(".tok, .thumb, [role=gridcell]", inside) <= 2
