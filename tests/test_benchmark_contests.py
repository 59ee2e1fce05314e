"""Contests on a GPU run over a stand-in: they compare like with like, and write a page of what they found."""

import importlib.util
import json
import math
import os
import shutil
import subprocess
import sys
import types

import cuda_on_cpu
import numpy as np
import pytest
from cupy_stand_in import cupy, waits  # noqa: F401 (a fixture)
from test_benchmarks import BENCHMARKS, HAS_TORCH, TESTS, with_torch

import numgpt
from numgpt import InputError

with_compiler = pytest.mark.skipif(cuda_on_cpu.compiler() is None, reason="g++ is not installed")


@pytest.fixture
def benchmarks(monkeypatch, tmp_path):
    """The benchmarks' modules; what they record goes to a folder of the test."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    found = types.SimpleNamespace(
        **{
            name: importlib.import_module(name)
            for name in ("contest", "device", "train_step", "decode", "gpu")
        }
    )
    monkeypatch.setattr(found.contest, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(found.contest, "PAUSE", 0)
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "")  # so that what the benchmarks set is undone
    return found


def planted(folder, **modules):
    """An environment in which modules of these sources are found before all others."""
    for name, source in modules.items():
        (folder / f"{name}.py").write_text(source)
    return os.environ | {
        "PYTHONPATH": os.pathsep.join([str(folder), str(TESTS.parent), os.environ.get("PYTHONPATH", "")])
    }


STAND_IN = f"""import sys
sys.path.append({str(TESTS)!r})
import cupy_stand_in
sys.modules["cupy"] = cupy_stand_in.module()
"""


@pytest.fixture
def on_the_stand_in(benchmarks, cupy, monkeypatch, tmp_path):
    """The benchmarks, whose contestants find the stand-in in the place of CuPy, and PyTorch on the CPU in the
    place of the GPU's.
    """
    monkeypatch.setenv("PYTHONPATH", planted(tmp_path, cupy=STAND_IN)["PYTHONPATH"])
    monkeypatch.setitem(benchmarks.device.BESIDE, "cupy", "host")
    return benchmarks


def table(text, benchmark, *flags):
    """The rows of a page's table, as lists of cells; the page names the command, the GPU, the versions and
    the commit.
    """
    lines = text.splitlines()
    assert (
        lines[0] == "```text"
        and lines[1] == f"$ python benchmarks/{benchmark} {' '.join(flags)}"
        and lines[-1] == "```"
    )
    for what in (
        "gpu the stand-in",
        "CUDA driver 12.9",
        "CUDA runtime 12.9",
        "cupy 14.2.0",
        f"numpy {np.__version__}",
        f"numgpt {numgpt.__version__}",
        "commit 123abc",
    ):
        assert f"{what}, " in f"{lines[2]}, "
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]


@with_compiler
def test_a_training_step_on_the_gpu_is_compared_and_its_page_written_as_it_was_printed(
    on_the_stand_in, tmp_path, capsys
):
    kinds = ["numgpt", *(["torch"] if HAS_TORCH else [])]
    flags = [
        "--engine",
        "cupy",
        "--shape",
        "0",
        "--rounds",
        "2",
        "--only",
        *kinds,
        "--results",
        "a-gpu",
        "--commit",
        "123abc",
        "--json",
        str(tmp_path / "figures.json"),
    ]
    on_the_stand_in.contest.run(on_the_stand_in.train_step.main, flags)
    text = (tmp_path / "results/a-gpu.md").read_text("utf-8")
    assert text.splitlines()[2:-1] == capsys.readouterr().out.splitlines()
    cells, rows = (
        table(text, "train_step.py", *flags),
        json.loads((tmp_path / "figures.json").read_text())["rows"],
    )
    assert (
        [c[1] for c in cells[2:]] == [r["name"] for r in rows]
        and len(rows) == len(kinds)
        and all(len(c) == len(cells[0]) for c in cells)
    )
    assert rows[0]["peak_mb"] == 24e-6  # of the stand-in's pool
    losses = [r["loss"] for r in rows]
    assert max(losses) - min(losses) < 1e-5 and abs(losses[0] - math.log(65)) < 0.1
    assert (
        "float32 without TF32; losses of the first two steps at most" in text
        and os.environ["NVIDIA_TF32_OVERRIDE"] == os.environ["CUPY_TF32"] == "0"
    )


@with_compiler
def test_decoding_on_the_gpu_is_compared(on_the_stand_in, tmp_path, capsys):
    flags = [
        "--engine",
        "cupy",
        "--preset",
        "gpt-nano",
        "--batch",
        "2",
        "--tokens",
        "3",
        "--rounds",
        "1",
        "--results",
        "a-gpu",
        "--commit",
        "123abc",
        "--only",
        "numgpt",
        *(["torch"] if HAS_TORCH else []),
    ]
    on_the_stand_in.contest.run(on_the_stand_in.decode.main, flags)
    rows = table((tmp_path / "results/a-gpu.md").read_text("utf-8"), "decode.py", *flags)[2:]
    assert [r[1] for r in rows] == ["numgpt", *(["PyTorch eager, with cache"] if HAS_TORCH else [])] and all(
        float(r[3]) > 0 for r in rows
    )
    assert not HAS_TORCH or float(rows[0][4]) > 0


@with_compiler
def test_each_step_is_timed_from_a_gpu_at_rest_to_one_at_rest_and_none_waits_for_it(
    on_the_stand_in, monkeypatch
):
    answers = {}
    monkeypatch.setattr(on_the_stand_in.contest, "serve", answers.update)
    on_the_stand_in.train_step.worker("numgpt", "0", 1, "cupy")
    answers["warm"](seconds=0)
    waits.clear()
    assert answers["time"]()["seconds"] > 0
    assert waits == ["deviceSynchronize"] * 2


class Says:
    """A contestant that gives answers made beforehand."""

    def __init__(self, name, **answers):
        self.name, self.answers, self.seconds = name, answers, []

    def ask(self, do):
        return self.answers.get(do)

    def close(self):
        pass


def contestant(name, loss=4.0, gpu="x"):
    return Says(
        name,
        first={"loss": loss, "first": 1.0, "about": {"gpu": gpu}},
        warm={"losses": [loss, loss]},
        time={"seconds": 1.0},
        memory={"taken": 2e6, "allocated": None},
    )


def contest_of(benchmarks, monkeypatch, *contestants):
    waiting = iter(contestants)
    monkeypatch.setattr(benchmarks.train_step, "start", lambda *args: next(waiting))
    return benchmarks.train_step.contest_of(
        "0", [c.name for c in contestants], 1, 1, "cupy", benchmarks.contest.Page(None, ""), "c"
    )


def test_contestants_that_compute_something_else_or_elsewhere_are_refused(benchmarks, monkeypatch):
    for loss, far in ((4.0001, "1.0e-04"), (float("nan"), "nan")):
        said = f"the losses of two steps lie {far} apart, expected the same within"
        with pytest.raises(AssertionError, match=said):
            contest_of(benchmarks, monkeypatch, contestant("numgpt"), contestant("PyTorch eager", loss=loss))
    with pytest.raises(AssertionError, match="compute on x and y, expected one GPU"):
        contest_of(benchmarks, monkeypatch, contestant("numgpt"), contestant("PyTorch eager", gpu="y"))
    with pytest.raises(InputError, match="no contestant runs here"):
        contest_of(benchmarks, monkeypatch, Says("numgpt"))
    machine, rows = contest_of(
        benchmarks,
        monkeypatch,
        contestant("numgpt"),
        contestant("PyTorch eager"),
        Says("torch.compile, fused AdamW"),
    )
    assert [r["to_eager"] for r in rows] == [1, 1] and machine["commit"] == "c"


@with_torch
def test_what_is_asked_of_pytorchs_gpu_is_there_to_be_asked(benchmarks, monkeypatch):
    """The lines that run on a GPU alone; putting something in the place of a name that torch.cuda lacks is an
    error.
    """
    torch, done = importlib.import_module("torch"), []
    assert benchmarks.device.Cuda().memory()["allocated"] == (
        0 if not torch.cuda.is_available() else torch.cuda.max_memory_allocated()
    )
    stand_ins = {
        "synchronize": lambda: done.append("waited"),
        "get_device_name": lambda: "a GPU",
        "max_memory_reserved": lambda: 3,
        "max_memory_allocated": lambda: 2,
    }
    for name, stand_in in stand_ins.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    cuda = benchmarks.device.Cuda()
    cuda.wait()
    assert (
        done == ["waited"]
        and cuda.memory() == {"taken": 3, "allocated": 2}
        and cuda.about()["gpu"] == "a GPU"
    )


def pytorchs_side():
    """benchmarks/torch_gpt.py, whose name another file of the tests has too."""
    spec = importlib.util.spec_from_file_location("benchmarks_torch_gpt", BENCHMARKS / "torch_gpt.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@with_torch
def test_pytorchs_decoding_with_a_cache_chooses_what_ours_does(benchmarks):
    torch, torch_gpt = importlib.import_module("torch"), pytorchs_side()
    model = numgpt.GPT(numgpt.Config(vocab_size=19, block_size=24, n_layer=2, n_head=2, n_embd=8), seed=1)
    model.params.flat *= 5  # so that no two logits are nearly the same
    net, prompt = torch_gpt.GPT(model.config).eval(), np.random.default_rng(0).integers(0, 19, (3, 5))
    net.load(model.params)
    found = net.generate(torch.from_numpy(prompt), 12)
    assert (
        found.tolist() == model.generate(prompt, 12, temperature=0).tolist()
        and len({*found[0].tolist()[5:]}) > 1
    )


@with_torch
def test_pytorch_is_told_to_multiply_exactly():
    torch, torch_gpt = importlib.import_module("torch"), pytorchs_side()
    torch.backends.cuda.matmul.allow_tf32 = True
    torch_gpt.exact()
    assert (
        not torch.backends.cuda.matmul.allow_tf32
        and not torch.backends.cudnn.allow_tf32
        and torch.get_float32_matmul_precision() == "highest"
    )


MISSING = {
    "cupy": "raise ModuleNotFoundError(\"No module named 'cupy'\", name='cupy')",
    "torch": "raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')",
}


ADVICE = "expected one with CUDA, to compare with: install it, or choose --only numgpt"


@pytest.mark.parametrize("benchmark", ["train_step.py", "decode.py"])
@pytest.mark.parametrize(
    "modules, message",
    [
        ({"cupy": MISSING["cupy"]}, "CuPy is not installed, expected it for the cupy engine"),
        ({"cupy": STAND_IN.replace("module()", "module(driver=0)")}, "there is no NVIDIA driver"),
        ({"cupy": STAND_IN.replace("module()", "module(devices=0)")}, "the driver finds no GPU"),
        ({"cupy": STAND_IN, "torch": MISSING["torch"]}, f"PyTorch is not installed, {ADVICE}"),
        pytest.param({"cupy": STAND_IN}, f"finds no GPU, {ADVICE}", marks=with_torch),
    ],
    ids=["no CuPy", "no driver", "no GPU", "no PyTorch", "PyTorch without CUDA"],
)
def test_what_a_contest_on_the_gpu_lacks_is_one_line(tmp_path, benchmark, modules, message):
    environment = planted(tmp_path, **modules) | {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, BENCHMARKS / benchmark, "--engine", "cupy"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
    )
    assert done.returncode == 2 and done.stdout == "" and done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"{benchmark}: ") and message in done.stderr


@pytest.mark.parametrize("name", ["../x", "", "a b", "a.md"])
def test_a_page_has_a_plain_name(benchmarks, name):
    with pytest.raises(InputError, match="--results is .* expected a name of letters"):
        benchmarks.contest.Page(name, "")


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_the_commit_is_that_of_the_code_that_is_measured(benchmarks, monkeypatch, tmp_path):
    def git(*arguments):
        return subprocess.run(
            ["git", "-c", "user.name=a", "-c", "user.email=a@b", *arguments],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()

    source = tmp_path / "__init__.py"
    monkeypatch.setattr(numgpt, "__file__", str(source))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    source.write_text("1")
    assert benchmarks.contest.commit() is None
    git("init")
    assert benchmarks.contest.commit() is None  # in the folder of a repository, but none of its files
    git("add", ".")
    git("commit", "-m", "first")
    assert git("rev-parse", "HEAD").startswith(benchmarks.contest.commit())
    source.write_text("2")
    assert benchmarks.contest.commit().endswith("-dirty")


def python(code):
    return sys.executable, "-u", "-c", code


def test_a_visit_to_a_gpu_ends_in_time_and_writes_what_it_found(
    on_the_stand_in, monkeypatch, tmp_path, capfd
):
    """A part that takes too long is stopped. The page says so, and names what failed or was not reached."""
    gpu = on_the_stand_in.gpu
    monkeypatch.setattr(gpu, "KEPT", 0.5)
    slow = (
        "import time\nprint('begun')\ntry:\n time.sleep(60)\nexcept KeyboardInterrupt:\n print('what failed')"
    )
    parts = [
        gpu.Part("a quick part", python("print('all is well')"), 60),
        gpu.Part("a slow part", python(slow), 3),  # in which Python has begun on a busy machine, too
        gpu.Part("a part that fails", python("raise SystemExit(3)"), 60),
        gpu.Part(
            "one that does not hear", python(slow.replace("print('what failed')", "time.sleep(60)")), 60
        ),
        gpu.Part("a late part", python(""), 60),
    ]
    with pytest.raises(SystemExit) as ended:
        gpu.contest.run(lambda argv: gpu.main(argv, parts, 9), ["--results", "gpu-a", "--commit", "123abc"])
    page = (tmp_path / "results/gpu-a.md").read_text("utf-8")
    said = [line for line in page.splitlines() if line.startswith(("==", "--", "all", "what", "not reached"))]
    assert [line.split(" s,")[-1].split(" after")[0] for line in said] == [
        "== a quick part",
        "all is well",
        " exit status 0",
        "== a slow part",
        "what failed",
        "-- stopped",
        "== a part that fails",
        " exit status 3",
        "== one that does not hear",
        "-- stopped",
        "== a late part",
        "not reached: the time was over",
    ]
    assert ended.value.code == 2 and "gpu the stand-in" in page and "commit 123abc" in page
    assert "not all went well" in capfd.readouterr().err


def test_a_visits_parts_are_tests_that_exist_and_fit_in_eight_minutes(benchmarks):
    """The tests of the first part and of the last are all of them, each once."""
    gpu = benchmarks.gpu
    files = {argument for part in gpu.PARTS for argument in part.command if argument.endswith(".py")}
    assert all((gpu.ROOT / file).exists() for file in files) and gpu.LIMIT == 480
    first, step, formats, rest = gpu.PARTS
    assert first.seconds + step.seconds + formats.seconds < gpu.LIMIT - gpu.KEPT - 60
    assert rest.command[-1] == f"not ({first.command[-1]})"
    assert "l" in step.command
