"""numgpt explain: every op has a formula, a derivation, an example that is right, and a line of PyTorch."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest

from numgpt import ops
from numgpt.__main__ import main
from numgpt.commands.explain import torch_line
from numgpt.learn import explaining
from numgpt.learn.exercises import NAMES
from numgpt.learn.variation import exercise


@pytest.mark.parametrize("name", ops.ALL)
def test_an_explanation_is_whole_and_its_example_is_right(name):
    op = ops.ALL[name]
    sections = {s.title: s.text for s in explaining.explained(op, torch_line(name))}
    assert all(text.strip() for text in sections.values())
    line = sections["The same in PyTorch"]
    assert set(re.findall(r"(?<![\w.])(_\w+)\(", line)) <= set(re.findall(r"def (_\w+)\(", line))
    assert re.search("because|In words|as in", sections["Backward, derived"])
    measured = re.search(
        r"moves (\S+) times as much;\nd.+ is (-?[\d.]+)\.$", sections["An example in small numbers"]
    )
    assert measured is not None
    assert abs(float(measured[1]) - float(measured[2])) < 1e-5


@pytest.mark.parametrize("name", [n for n in NAMES if exercise(n).ops])
def test_an_exercises_name_explains_its_op(name, capsys):
    assert main(["explain", name]) == 0
    assert f"numgpt learn start {name}" in capsys.readouterr().out


def test_pytorch_computes_what_the_line_says():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    x = np.random.default_rng(0).standard_normal((2, 3))
    names = {"torch": torch, "x": torch.from_numpy(x), "eps": 1e-5}
    names |= {"weight": torch.ones(3, dtype=torch.float64), "bias": torch.zeros(3, dtype=torch.float64)}
    theirs = eval(torch_line("layernorm"), names).numpy()
    np.testing.assert_allclose(theirs, ops.layernorm(x, np.ones(3), np.zeros(3)), rtol=1e-12)


class Tags(HTMLParser):
    """The tags and attributes of a page, and whether each that was opened was closed."""

    def __init__(self):
        super().__init__()
        self.open, self.seen, self.links = [], [], []

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        self.links += [value for key, value in attrs if key in ("src", "href")]
        if tag not in ("meta",):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_a_page_to_print_is_one_file_that_loads_nothing(tmp_path, capsys):
    path = tmp_path / "layernorm.html"
    assert main(["explain", "layernorm", "--html", str(path)]) == 0
    page, tags = path.read_text("utf-8"), Tags()
    tags.feed(page)
    assert tags.open == [] and tags.links == []
    assert "script" not in tags.seen and tags.seen.count("section") == 8
    assert "@media print" in page and "default-src 'none'" in page
    assert "dx = dc − ⟨dc⟩" in page


def test_what_is_no_op_is_asked_about(capsys):
    assert main(["explain", "layernrom"]) == 2
    assert "did you mean layernorm" in capsys.readouterr().err
    assert main(["explain", "numerical_grad"]) == 2
    assert main(["explain", "layernorm", "--html", "/nowhere/page.html"]) == 2
