"""What a command says is about what was typed: its flags, its files, and lines to copy into a shell."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys

import numpy as np
import pytest

from numgpt import parity
from numgpt.__main__ import main
from numgpt.errors import InputError

TINY = shlex.split(
    "--activation=gelu_tanh --n-layer=1 --n-head=1 --n-embd=8 --block-size=8 --batch-size=2 --eval-iters=1"
)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with a text, and a run whose name has a blank in it."""
    home = tmp_path_factory.mktemp("home")
    (home / "text.txt").write_text("".join(np.random.default_rng(0).choice(list("abcdefgh \n"), 2000)))
    settings = [*TINY, "--steps=1", "--sample-tokens=0", "--data", str(home / "text.txt")]
    assert main(["train", *settings, "--out", str(home / "my run")]) == 0
    return home


@pytest.fixture
def here(home, tmp_path, monkeypatch):
    """A copy of the home, in which the run also has a name like a flag's."""
    shutil.copytree(home, tmp_path / "home")
    monkeypatch.chdir(tmp_path / "home")
    shutil.copytree("my run", "-x")
    shutil.copytree("my run", "r1")
    return tmp_path / "home"


def line_of(capfd, args):
    """The line on stderr of a command that ends with status 2."""
    capfd.readouterr()
    assert main(args if isinstance(args, list) else shlex.split(args)) == 2
    error = capfd.readouterr().err
    assert error.startswith("numgpt: ") and error.count("\n") == 1
    return error.removeprefix("numgpt: ").removesuffix("\n")


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (
            "sample r1 --temperature nan",
            "sample: --temperature is nan, expected a finite number of 0 or more",
        ),
        ("sample r1 --top-k 0", "sample: --top-k is 0, expected an integer of 1 or more"),
        ("sample r1 --slide 99", "sample: --slide is 99, expected 1 to block_size 8"),
        (
            "sample r1 --keep-first 4",
            "sample: --keep-first is 4, expected it only where positions are counted within the cache",
        ),
        ("sample r1 --seed x", "argument --seed: 'x' is not an integer; see numgpt sample --help"),
        ("sample r1 --min-p x", "argument --min-p: 'x' is not a number; see numgpt sample --help"),
        ("sample r1 --num-samples 0", "argument --num-samples: is 0, expected 1 or more; see"),
        (
            "sample r1 --num-samples x",
            "argument --num-samples: 'x' is not an integer, expected 1 or more; see",
        ),
        ("train --out new --held-out 2", "train: --held-out is 2.0, expected a share from 1e-6 to 0.5"),
        ("train --out new --batch-size 0", "train: --batch-size is 0, expected 1 to "),
        ("train --resume --out r1 --lr nan", "train: --lr is nan, expected a finite number"),
        ("eval r1 --stride 0", "eval: --stride is 0, expected 1 to block_size 8"),
        ("curvature r1 --eigenvalues 41", "curvature: --eigenvalues is 41, expected 0 to 40 for "),
        (
            "curvature r1 --eigenvalues 9999 --solver scipy",
            "curvature: --eigenvalues is 9,999, expected 0 to ",
        ),
        ("diff r1 r1 --tokens 99", "parity: the batch has 99 tokens a sequence, expected 1 to block_size 8"),
        ("tokenizer train text.txt --out t --vocab-size 5", "tokenizer train: --vocab-size is 5, expected "),
    ],
)
def test_a_value_is_called_by_the_flag_that_gave_it(here, capfd, args, line):
    text = line_of(capfd, args)
    assert text.startswith(line)
    assert " or None" not in text


def test_a_value_that_no_flag_gave_is_called_by_its_own_name(here, capfd):
    state = json.loads((here / "r1/last/state.json").read_text())
    state["training"]["batch_size"] = 0
    (here / "r1/last/state.json").write_text(json.dumps(state))
    assert "batch_size is 0" in line_of(capfd, "train --resume --out r1 --steps 2")


@pytest.mark.parametrize("run", ["my run", "-x"])
def test_advice_can_be_copied_into_a_shell(here, capfd, run):
    for steps, settings in ((1, []), (2, ["--sample-tokens=0"])):
        assert main(["train", "--resume", f"--out={run}", f"--steps={steps}", *settings]) == 0
        lines = re.findall(r"with: numgpt ([^;\n]+)", capfd.readouterr().err)
        assert lines
        for line in lines:
            assert run in line
            assert main([*shlex.split(line)]) == 0
        capfd.readouterr()


def test_what_a_tokenizers_file_does_not_hold_is_given_back_in_a_line_to_copy(here, capfd):
    learned = ["text.txt", "--vocab-size=260", "--format=tiktoken", "--out=t o"]
    what = ["--special-token=<| |>", r"--pattern=[a-z]+|[\s\S]"]
    assert main(["tokenizer", "train", *learned, *what]) == 0
    line = re.search(r"give them with it: numgpt (.*)", capfd.readouterr().err)[1]
    assert main([*shlex.split(line), "--special", "allow", "<| |>"]) == 0
    assert len(capfd.readouterr().out.split()) == 1


def test_a_run_has_a_tokenizer_to_train_with(here, capfd):
    settings = [*TINY, "--steps=1", "--sample-tokens=0", "--data=text.txt", "--tokenizer=my run"]
    assert main(["train", *settings, "--out=new"]) == 0
    assert main(["train", "--resume", "--out=new", "--tokenizer=my run"]) == 0


@pytest.mark.parametrize(
    "args",
    [
        "convert r1 text.txt/x",
        "convert r1 text.txt/x/y",
        "tokenizer train text.txt --out text.txt/x --format gpt2",
        "export text.txt/x r1 --llmc",
    ],
)
def test_a_folder_below_a_file_is_called_what_it_is(here, capfd, args):
    assert re.match(r"text.txt/x.*is a file or lies below one", line_of(capfd, args))


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("[1]", "names.json: does not go from strings to strings, expected numgpt's name"),
        ('{"wte": 1}', "names.json: does not go from strings to strings, expected numgpt's name"),
        ('{"x": "y"}', "names.json: has x, which numgpt does not have, expected some of wte, "),
        ('{"h.{i}": "y"}', "names.json: has h.{i} → y, expected {i}, the number of the block, on both"),
    ],
)
def test_a_map_of_names_is_called_by_its_file(here, capfd, content, line):
    pytest.importorskip("torch")
    (here / "names.json").write_text(content)
    (here / "m.py").write_text("import torch\nm = torch.nn.Linear(2, 2)\nnone = torch.nn.ReLU()\n")
    assert line_of(capfd, "diff r1 m.py:m --names names.json").startswith(line)


def test_a_module_without_parts_is_not_said_to_have_some():
    torch = pytest.importorskip("torch")
    with pytest.raises(
        InputError, match=r"ReLU of PyTorch: has no .*, expected a module with parameters: it"
    ):
        parity.compare(torch.nn.ReLU())
    with pytest.raises(InputError, match=r"expected a path, for it has weight, bias: give a map of names"):
        parity.compare(torch.nn.Linear(2, 2))


@pytest.mark.parametrize("name", ["ids.NPY", "ids.Bin", "ids.txt"])
def test_ids_come_back_from_a_file_whatever_its_case_and_its_mark(here, capfd, name):
    if name == "ids.txt":
        (here / name).write_bytes(b"\xef\xbb\xbf104 105")
    else:
        assert main(["tokenizer", "encode", "bytes", "hi", "--out", name]) == 0
    capfd.readouterr()
    assert main(["tokenizer", "decode", "bytes", "--file", name]) == 0
    assert capfd.readouterr().out == "hi"


def test_a_setting_that_numba_cannot_read_is_named_without_a_traceback():
    pytest.importorskip("numba")
    code = "from numgpt.engine.choice import _numba_lacks; _numba_lacks()"
    settings = {"NUMBA_NUM_THREADS": "abc", "NUMBA_OPT": "x"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | settings, capture_output=True, text=True
    )
    for name, value in settings.items():
        assert f"{name} is '{value}', which Numba cannot read: it uses its default" in done.stderr
    assert "Traceback" not in done.stderr
