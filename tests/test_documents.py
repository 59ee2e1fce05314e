"""Every block of a page runs and prints what the page says; every example runs and asserts its answer."""

import contextlib
import importlib
import importlib.util
import io
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from shares import slow

from numgpt import Config, Record, engine, gradcheck, ops
from numgpt.__main__ import main
from numgpt.architecture.parameters import shapes
from numgpt.commands.table import COMMANDS
from numgpt.layers import transformer
from numgpt.ops.linear import sum_rows
from numgpt.proofs.subjects import SMALL, op_subjects

ROOT = Path(__file__).parents[1]
ROOMS = ("numgpt", "examples", "benchmarks")
PAGES = [ROOT / "README.md", *sorted(p for room in ROOMS for p in (ROOT / room).rglob("README.md"))]
FENCE = re.compile(r"```(\w+)\n(.*?)```(?:\n\n```text\n(.*?)```)?", re.DOTALL)
# Lines of a page that are not run: what installs, what has a test or a benchmark of its own.
ELSEWHERE = ("mpiexec ", "pip install ", "pytest", "python benchmarks/", "python examples/", "lint-imports")


def blocks(page, language):
    """(code, the text block after it or "") of every block of a language."""
    found = FENCE.findall(page.read_text("utf-8"))
    return [(code, output) for kind, code, output in found if kind == language]


def name_of(page):
    """A page's path in the repository."""
    return str(page.relative_to(ROOT))


PYTHON = [(page, n) for page in PAGES for n, _ in enumerate(blocks(page, "python"))]
SHELL = [page for page in PAGES if blocks(page, "sh")]


def commands(page):
    """The command lines of a page, in order."""
    lines = [line.split("  #")[0] for code, _ in blocks(page, "sh") for line in code.splitlines()]
    return [part.strip() for line in lines for part in line.split("&&") if part.strip()]


def test_continuous_integration_runs_commands_that_a_reader_can_copy():
    starts = re.findall(r"readme_command [\"'](.+ &&)[\"']", (ROOT / ".ci/run").read_text("utf-8"))
    lines = [line for code, _ in blocks(ROOT / "README.md", "sh") for line in code.splitlines()]
    assert len(starts) == 2
    for start in starts:
        assert sum(line.startswith(start) for line in lines) == 1, (
            f"no block of README.md has a line {start} …"
        )


def defined(page, name):
    """What the block of a page that defines a name leaves behind, given the ops."""
    (code,) = (code for code, _ in blocks(page, "python") if name in code)
    names = vars(ops).copy()
    exec(compile(code, name_of(page), "exec"), names)
    return names


def test_the_pages_have_their_blocks():
    assert len(PAGES) >= 8 and len(PYTHON) >= 10 and len(SHELL) >= 2
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= 200


@pytest.mark.parametrize("page, n", PYTHON, ids=[f"{name_of(page)} {n}" for page, n in PYTHON])
def test_a_python_block_prints_what_the_page_says(page, n):
    code, output = blocks(page, "python")[n]
    if re.search(r"plots\.(?!Run|table)\w", code):
        pytest.importorskip("matplotlib", reason="matplotlib is not installed: pip install '.[plot]'")
    names = {"__name__": "page", "linear": ops.linear, "gelu": ops.gelu, "Op": ops.Op, "sum_rows": sum_rows}
    printed = io.StringIO()
    before = engine.current()
    try:
        with contextlib.redirect_stdout(printed):
            exec(compile(code, name_of(page), "exec"), names)
    finally:
        engine.use(before)
    assert printed.getvalue() == output


@pytest.fixture
def fast_engine():
    """Numba's, where it is installed: what a user's commands run on."""
    before = engine.current()
    engine.use("numba" if importlib.util.find_spec("numba") else "reference")
    yield
    engine.use(before)


HUNDREDS = re.compile(r"--steps (\d{2,})\d\b")
TRAINING = [page for page in SHELL if any(map(HUNDREDS.search, commands(page)))]


@pytest.mark.parametrize(
    "page, steps",
    [*((page, "few") for page in SHELL), *(slow(page, "all") for page in TRAINING)],
    ids=lambda value: value if isinstance(value, str) else name_of(value),
)
@pytest.mark.usefixtures("fast_engine")
def test_the_commands_of_a_page_work(page, steps, tmp_path, monkeypatch, capsys):
    """Runs of hundreds of steps take a tenth of them; where slow tests run they take all."""
    shutil.copy(ROOT / "README.md", tmp_path)
    monkeypatch.chdir(tmp_path)
    draws = [
        command for command in commands(page) if command.startswith("numgpt plot") or "--plot " in command
    ]
    if draws:
        pytest.importorskip("matplotlib", reason="matplotlib is not installed: pip install '.[plot]'")
    for command in commands(page):
        if command.startswith(ELSEWHERE):
            continue
        if steps == "few":
            command = HUNDREDS.sub(r"--steps \1", command)
        program, *args = shlex.split(command)
        assert program == "numgpt", f"{command}: expected a command of numgpt, or one of {ELSEWHERE}"
        if args[0] == "verify":
            pytest.importorskip("torch", reason="PyTorch is not installed, which the page compares with")
        if args[0] == "train" and page.parent.name == "plots":  # pictures of longer runs: here any will do
            args += ["--steps", "4"]
        if args == ["train"]:
            args += ["--steps", "2", "--eval-iters", "1", "--sample-tokens", "10"]
        assert main(args) == 0, command
    capsys.readouterr()


def test_the_pages_show_most_commands_and_no_others():
    shown = {shlex.split(c)[1] for page in SHELL for c in commands(page) if c.startswith("numgpt ")}
    assert len(shown) > 10 and shown <= set(COMMANDS)


LINKS = [(p, target) for p in PAGES for target in re.findall(r"\]\(([^)#]+)[^)]*\)", p.read_text("utf-8"))]


@pytest.mark.parametrize("page, target", LINKS, ids=[f"{name_of(p)} {target}" for p, target in LINKS])
def test_a_link_leads_somewhere(page, target):
    assert target.startswith("https://") or (page.parent / target).exists()


def test_the_op_that_the_page_adds_keeps_the_laws():
    names = defined(ROOT / "numgpt/ops/README.md", "squared_relu")
    for subject in op_subjects(names["squared_relu"], 0):
        gradcheck.check(subject.forward, subject.backward, *subject.arrays)


def test_the_readme_shows_layernorm_as_it_stands():
    source = (ROOT / "numgpt/ops/norms.py").read_text("utf-8")
    (code,) = (code for code, _ in blocks(ROOT / "README.md", "python") if "layernorm" in code)
    assert code.strip() in source


def test_the_layer_that_the_page_shows_computes_what_the_package_does():
    names = defined(ROOT / "numgpt/README.md", "ffn_backward")
    config = Config(**SMALL | {"activation": "gelu"})
    rng = np.random.default_rng(0)
    prefix = "h.0.mlp."
    inside = {n.removeprefix(prefix): s for n, s in shapes(config).items() if n.startswith(prefix)}
    params = {n: rng.standard_normal(s) for n, s in inside.items()}
    x, dy = rng.standard_normal((2, 4, 6))
    shown, ours = (Record(params, config) for _ in range(2))
    assert np.array_equal(names["ffn_forward"](shown, x), transformer.ffn_forward(ours, x))
    assert np.array_equal(names["ffn_backward"](shown, dy), transformer.ffn_backward(ours, dy))


# Examples that take minutes, and the flags by which they take seconds.
SHORTER = {"llama_beside_gpt": ["--steps", "16", "--seeds", "2"]}


EXAMPLES = sorted(p for p in (ROOT / "examples").glob("*.py") if p.stem != "picture")  # which they import
# Each takes half a minute and more.
LONG = (
    *("characters_or_byte_pairs", "gradient_flow_depth", "layernorm_three_terms"),
    *("teach_addition", "reward_of_known_truth", "preferences_break", "counts_or_gpt"),
    *("reinforce_addition", "whole_pipeline", "induction_head", "planted_fact", "prune_and_recover"),
    *("recipes_compared", "learning_without_forgetting"),
)


@pytest.mark.parametrize(
    "path", [slow(p) if p.stem in LONG else p for p in EXAMPLES], ids=[p.stem for p in EXAMPLES]
)
def test_an_example_runs_and_prints_its_conclusion(path, tmp_path):
    command = [sys.executable, str(path), *SHORTER.get(path.stem, [])]
    draws = "import picture" in path.read_text("utf-8") and importlib.util.find_spec("matplotlib")
    if draws:
        command += ["--plot", str(tmp_path / "picture.png")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT / "examples")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().splitlines()[-1].endswith(".")
    assert not draws or (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
    assert "assert" in path.read_text("utf-8")


def test_the_losses_of_two_models_can_be_drawn_whatever_they_are(monkeypatch):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: pip install '.[plot]'")
    monkeypatch.syspath_prepend(ROOT / "examples")
    example, picture = (importlib.import_module(name) for name in ("llama_beside_gpt", "picture"))
    losses = {"one": np.ones((3, 8)), "other": np.arange(24.0).reshape(3, 8)}
    figure = picture.drawn(lambda figure: example.draw(figure, losses, np.arange(1.0, 9.0)), (6, 4))
    assert [text.get_text() for text in figure.axes[0].texts] == ["one", "other"]


@pytest.mark.parametrize(
    ("gain", "seeds", "says"),
    [
        (0.4, 3, "of b is 0.400 ± 0.050 nats a character below that of a."),
        (-0.4, 3, "of a is 0.400 ± 0.050 nats a character below that of b."),
        (0.2, 3, "a and b differ by 0.200 ± 0.050 nats a character: too little to tell"),
        (0.4, 2, "too little to tell"),
    ],
)
def test_a_difference_between_two_models_is_held_to_its_error(gain, seeds, says, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "examples")
    example = importlib.import_module("llama_beside_gpt")
    assert says in example.conclusion("a", "b", gain, 0.05, seeds)


def test_the_replay_in_another_order_of_all_sums_prints_the_same_losses():
    """A few steps magnify rounding (1e-7) to nothing that four digits show, but in the last of them."""
    runs = []
    for flags in ([], ["--perturb", "1"]):
        done = subprocess.run(
            [sys.executable, "nanogpt_replay.py", "--steps", "5", *flags],
            capture_output=True,
            text=True,
            cwd=ROOT / "examples",
        )
        assert done.returncode == 0, done.stderr
        runs.append(
            [float(line.split()[-1]) for line in done.stdout.splitlines() if line.split()[0].isdigit()]
        )
    assert len(runs[0]) == 4
    np.testing.assert_allclose(runs[1], runs[0], rtol=0, atol=1.5e-4)


SOURCES = sorted((ROOT / "numgpt").rglob("*.py"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_source_keeps_the_house_rules(path):
    """No pickle, no eval, no network; every public function and class says what it does."""
    import ast

    tree = ast.parse(path.read_text("utf-8"))
    assert path.name == "_version.py" or ast.get_docstring(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = {a.name.split(".")[0] for a in node.names} | {
                (getattr(node, "module", None) or "").split(".")[0]
            }
            assert not names & {"pickle", "marshal", "shelve", "urllib", "requests", "socket", "http"}
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in {"eval", "exec", "__import__"}
    for node in tree.body:
        public = [node] + (node.body if isinstance(node, ast.ClassDef) else [])
        for n in public:
            decorators = [ast.unparse(d) for d in getattr(n, "decorator_list", ())]
            if "overload" in decorators:  # the docstring is the one function's that they speak of
                continue
            if isinstance(n, ast.FunctionDef | ast.ClassDef) and not n.name.startswith("_"):
                assert ast.get_docstring(n), n.name
