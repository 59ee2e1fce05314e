"""numgpt check takes a pair of one's own from a file, and says right, rounding or wrong."""

import sys

import pytest

from numgpt import user_code
from numgpt.__main__ import main

MINE = """
import numpy as np
from numgpt.ops import Op

def softmax_forward(x):
    p = np.exp(x - x.max(-1, keepdims=True))
    p = p / p.sum(-1, keepdims=True)
    return p, (p,)

def softmax_backward(dy, saved):
    (p,) = saved
    return (p * (dy - (dy * p).sum(-1, keepdims=True)),)

wrong = softmax_forward, lambda dy, saved: (saved[0] * (1 - saved[0]) * dy,)
misfit = softmax_forward, lambda dy, saved: dy

def scale_forward(x, weight):
    return x * weight, (x, weight)

def scale_backward(dy, saved):
    x, weight = saved
    return dy * weight, (dy * x).reshape(-1, weight.shape[-1]).sum(0)

scale = Op("...C, C -> ...C", scale_forward, scale_backward)
number = 3

def broken_forward(x):
    return x["a"], None

def broken_backward(dy, saved):
    return dy
"""

TORCH = """
import torch

class Cube(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x * x

    @staticmethod
    def backward(ctx, dy):
        (x,) = ctx.saved_tensors
        return 2 * x * x * dy

def gelu_torch(x):
    return torch.nn.functional.gelu(x)
"""


@pytest.fixture(autouse=True)
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "theirs.py").write_text(TORCH)


@pytest.mark.parametrize(
    "args",
    [
        ["mine.py:softmax", "--shapes", "3x5"],
        ["mine.py:scale"],
        ["mine.py:scale", "--shapes", "4x3", "3", "--draws", "2"],
    ],
    ids=str,
)
def test_a_right_pair_passes(args, capsys):
    assert main(["check", *args]) == 0
    printed = capsys.readouterr().out
    assert (
        "transpose of the derivative" in printed
        and "float32 gradients: correct" in printed
        and "FAILS" not in printed
    )


@pytest.mark.parametrize("name, said", [("wrong", "x: wrong in"), ("misfit", "FAILS")])
def test_a_wrong_pair_fails(name, said, capsys):
    assert main(["check", f"mine.py:{name}", "--shapes", "3x5"]) == 1
    assert said in capsys.readouterr().out


def test_autograd_functions_are_taken(capsys):
    pytest.importorskip("torch", reason="PyTorch is not installed")
    assert main(["check", "theirs.py:Cube", "--shapes", "4"]) == 1
    assert (
        "x: wrong in 4 of 4 elements" in (printed := capsys.readouterr().out)
        and "all of them ×0.666666667" in printed
    )
    assert main(["check", "theirs.py:gelu_torch", "--shapes", "4"]) == 0


@pytest.mark.parametrize(
    "args",
    [
        "mine.py:softmax",
        "mine.py:softmax --shapes 3y5",
        "mine.py:number --shapes 3",
        "mine.py:absent --shapes 3",
        "mine.py:broken --shapes 3",
        "mine.py:scale --shapes 3 4",
        "absent.py:softmax --shapes 3",
        "gelu mine.py:softmax",
        "gelu --shapes 3",
    ],
)
def test_what_it_cannot_check_is_one_line(args, capsys):
    assert main(["check", *args.split()]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "expected" in error, error


EXITS = {
    "exits.py:softmax": "import sys; sys.exit(0)",
    "half.py:softmax": "def softmax_forward(:",
    "inner.py:softmax": "from .mine import softmax_forward",
    "lazy.py:softmax": "def __getattr__(name): raise RuntimeError(name)",
    "quits.py:softmax": (
        "def softmax_forward(x): raise SystemExit\ndef softmax_backward(dy, saved): return dy"
    ),
}


@pytest.mark.parametrize("text", EXITS)
def test_code_that_exits_or_does_not_run_is_one_line(text, tmp_path, capsys):
    (tmp_path / text.split(":")[0]).write_text(EXITS[text])
    assert main(["check", text, "--shapes", "3"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "expected" in error, error


def test_a_file_may_lie_anywhere_and_a_module_where_one_is(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p not in ("", str(tmp_path))])
    (tmp_path / "an ünusual place").mkdir()
    (tmp_path / "an ünusual place" / "my file.py").write_text(MINE)
    (tmp_path / "package_of_mine").mkdir()
    (tmp_path / "package_of_mine" / "inside.py").write_text(MINE)
    for text in ("an ünusual place/my file.py:softmax", "package_of_mine.inside:softmax"):
        assert main(["check", text, "--shapes", "3x5"]) == 0


def test_two_versions_of_a_project_import_their_own_modules(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    for version in ("old", "new"):
        (tmp_path / version / "parts").mkdir(parents=True)
        (tmp_path / version / "parts" / "__init__.py").write_text(f"from .deep import {version} as version")
        (tmp_path / version / "parts" / "deep.py").write_text(f"{version} = '{version}'")
        (tmp_path / version / "build.py").write_text(
            "from parts import version\ndef late():\n    import parts.deep as deep\n    return"
            " deep.__file__\n"
        )
    for version in ("old", "new", "old"):
        assert user_code.named(f"{version}/build.py:version") == version
        assert f"/{version}/parts" in user_code.named(f"{version}/build.py:late")()
    assert sum(str(tmp_path) in p for p in sys.path) == 1


BEGUN = """
import numpy as np

def softmax_forward(x):
    return np.exp(x), x

def softmax_backward(dy, saved):
    raise NotImplementedError

def square_forward(x):
    return x * x, x

def square_backward(dy, x):
    2 * x * dy

def lonely_forward(x):
    return x, None

def deserted_backward(dy, saved):
    return dy
"""


@pytest.mark.parametrize(
    "name, status, says",
    [
        ("softmax", 1, "begun.py:softmax  not written yet: it raises NotImplementedError"),
        ("square", 1, "backward returned None, expected one gradient per array: it is not written yet, or a"),
        ("lonely", 2, "lonely_forward is there and lonely_backward is not written yet, expected both"),
        ("deserted", 2, "deserted_backward is there and deserted_forward is not written yet, expected both"),
        ("squere", 2, "there is no squere (did you mean square?), expected one of softmax, square"),
    ],
)
def test_who_has_just_begun_is_told_what_is_missing(name, status, says, capsys, tmp_path):
    (tmp_path / "begun.py").write_text(BEGUN)
    assert main(["check", f"begun.py:{name}", "--shapes", "3"]) == status
    captured = capsys.readouterr()
    assert says in captured.out + captured.err
