"""Ranks over MPI: what they say to each other, how they fail, and runs of numgpt train on several of them."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import test_reward_commands as rewards

from numgpt import GPT
from numgpt.interchange import checkpoint
from numgpt.tokenizers import Characters

pytest.importorskip("mpi4py", reason="mpi4py is not installed: pip install '.[mpi]'")
MPIEXEC = shutil.which("mpiexec")
pytestmark = pytest.mark.skipif(MPIEXEC is None, reason="there is no mpiexec: pip install '.[mpi]'")

STEPS = str(Path(__file__).parent / "mpi_steps.py")
PATIENCE = "2"  # seconds; a rank that sleeps is waited for so long
SETTINGS = {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
SETTINGS |= {"NUMGPT_ENGINE": "reference"}
LIMIT = 60  # seconds for one launch
SHAPE = "--tokenizer chars --n-layer 1 --n-head 2 --n-embd 16 --block-size 8 --batch-size 1 --accumulate 4"
TRAIN = f"--preset gpt-nano {SHAPE} --steps 6 --eval-interval 3 --eval-iters 3 --save-interval 2 --warmup 1"


def launch(size, *words, environment=None, cwd=None):
    """A finished launch on so many ranks."""
    return subprocess.run(
        [MPIEXEC, "-n", str(size), sys.executable, *words],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        cwd=cwd,
        env=os.environ | SETTINGS | (environment or {}),
    )


def said(done):
    """The lines that numgpt wrote to stderr, without those of MPI."""
    return [line for line in done.stderr.splitlines() if "numgpt: " in line]


@pytest.mark.parametrize("size", [2, 3, 4])
def test_ranks_say_to_each_other_what_they_should(size):
    done = launch(size, STEPS, "calls")
    assert done.returncode == 0, done.stderr


def left(pattern):
    """The processes whose command holds a word."""
    lines = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout.splitlines()
    return [line for line in lines if pattern in line]


@pytest.mark.parametrize(
    ("how", "status", "says"),
    [
        ("raise", 1, "rank 1 of 2 failed"),
        ("refuse", 2, "is wrong here, expected right (rank 1 of 2; the others are ended with it)"),
        ("refuse all", 2, "numgpt: is wrong, expected right"),
        ("exit", 3, "has ended with status 3 (rank 1 of 2"),
        ("return", 13, "all_reduce (call 2) has waited"),
        ("sleep", 13, "all_reduce (call 2) has waited 2.0 s for rank 1, which is at barrier (call 1)"),
        ("kill", 9, None),  # mpiexec itself sees this one
        ("leave", 5, None),
    ],
)
def test_a_rank_that_fails_ends_all_in_time(how, status, says, tmp_path):
    steps = shutil.copy(STEPS, tmp_path / f"steps_{how.replace(' ', '_')}.py")
    begun = time.monotonic()
    done = launch(2, str(steps), "fail", how, environment={"NUMGPT_PATIENCE": PATIENCE})
    assert done.returncode == status, done.stderr
    assert time.monotonic() - begun < 20
    if says is not None:
        assert says in done.stderr, done.stderr
        assert "rank 1" in done.stderr or how == "refuse all"
    assert not left(str(steps))


def test_a_failure_shows_where_it_was():
    done = launch(2, STEPS, "fail", "raise", environment={"NUMGPT_PATIENCE": PATIENCE})
    assert "ValueError: a mistake of rank 1" in done.stderr and "mpi_steps.py" in done.stderr


# numgpt train.


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("mpi") / "text.txt"
    path.write_text("".join(np.random.default_rng(0).choice(list("abcdefgh \n"), 3000)))
    return path


def train(size, text, *words, environment=None):
    """numgpt train on so many ranks; None for a process that mpiexec has not started."""
    words = ["-m", "numgpt", "train", *words]
    if size is not None:
        return launch(size, *words, environment=environment, cwd=text.parent)
    return subprocess.run(
        [sys.executable, *words],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        cwd=text.parent,
        env=os.environ | SETTINGS | (environment or {}),
    )


def run(size, text, out, *words):
    """A whole run by --parallel data, in a folder."""
    done = train(size, text, "--data", str(text), *TRAIN.split(), "--parallel", "data", "--out", out, *words)
    assert done.returncode == 0, done.stderr
    return done


def content(folder):
    """What a run has learned, and what it goes on with, but for what depends on the clock."""
    names = ("model.safetensors", "optimizer.safetensors")
    state = checkpoint.read_state(folder / "last")
    return [(folder / "last" / name).read_bytes() for name in names], state["best"], state["updates"]


@pytest.fixture(scope="module")
def alone(text):
    run(None, text, "alone")
    return content(text.parent / "alone")


def test_a_run_has_the_same_bits_on_1_2_and_4_ranks(text, alone):
    for size in (1, 2, 4):
        done = run(size, text, f"on{size}")
        assert content(text.parent / f"on{size}") == alone
        assert sum("held-out loss" in line for line in done.stderr.splitlines()) == 4, done.stderr
    entries = [json.loads(line) for line in (text.parent / "on4" / "log.jsonl").read_text().splitlines()]
    assert [e["step"] for e in entries if "loss" in e] == [1, 2, 3, 4, 5, 6]  # one rank writes


def test_a_stopped_run_goes_on_with_other_ranks_to_the_same_bits(text, alone):
    words = ["--data", str(text), *TRAIN.split(), "--parallel", "data", "--out", "stopped"]
    limited = train(4, text, *words, "--time-limit", "0.001s")
    assert limited.returncode == 0 and "stopped at step 1 of 6, saved" in limited.stderr, limited.stderr
    for size in (1, 2):
        again = ["--resume", "--out", "stopped", "--parallel", "data"]
        limit = ["--time-limit", "0.001s"] if size == 1 else []
        done = train(size, text, *again, *limit)
        assert done.returncode == 0, done.stderr
    assert content(text.parent / "stopped")[0] == alone[0]


def test_a_signal_to_one_rank_stops_all(text):
    words = ["--data", str(text), *TRAIN.split(), "--parallel", "data", "--out", "signalled"]
    words += ["--steps", "100000"]
    process = subprocess.Popen(
        [MPIEXEC, "-n", "2", sys.executable, "-m", "numgpt", "train", *words],
        stderr=subprocess.PIPE,
        text=True,
        cwd=text.parent,
        env=os.environ | SETTINGS,
    )
    log = text.parent / "signalled" / "log.jsonl"
    end = time.monotonic() + LIMIT
    while not (log.exists() and '"step": 3' in log.read_text()):
        assert time.monotonic() < end and process.poll() is None
        time.sleep(0.05)
    os.kill(ranks_below(process.pid)[1], signal.SIGTERM)
    _, stderr = process.communicate(timeout=LIMIT)
    assert process.returncode == 130 and stderr.count("saved; go on with") == 1, stderr
    assert GPT.load(text.parent / "signalled" / "last").n_params > 0


def ranks_below(pid):
    """The processes of Python that a launch has started."""
    lines = subprocess.run(["ps", "-eo", "pid,ppid,args"], capture_output=True, text=True).stdout
    rows = [line.split(None, 2) for line in lines.splitlines()[1:]]
    inside, found = {str(pid)}, []
    for _ in range(4):
        inside |= {row[0] for row in rows if row[1] in inside}
    for number, parent, words in rows:
        if parent in inside and "numgpt train" in words and "hydra" not in words and "mpiexec" not in words:
            found.append(int(number))
    return sorted(found)


@pytest.mark.parametrize(
    ("size", "words", "message"),
    [
        (3, [], "3 ranks share the batches of a step, expected a power of two"),
        (2, ["--accumulate", "3"], "which 2 ranks cannot share evenly, expected a multiple of 2"),
        (2, ["--parallel", "tensr"], "did you mean tensor"),
        (
            2,
            ["--parallel", "data:4"],
            "asks for 4 ranks, and 2 run, expected as many: start it by mpiexec -n 4",
        ),
        (
            None,
            ["--parallel", "data:2"],
            "asks for 2 ranks, and 1 runs, expected as many: start it by mpiexec",
        ),
        (2, ["--steps", "few"], "'few' is not an integer"),
        (2, ["--data", "nowhere.txt"], "nowhere.txt"),
        (2, ["--engine", "cupy"], "expected --engine numba or reference"),
    ],
)
def test_what_cannot_be_used_is_one_line_of_one_rank(size, words, message, text):
    words = ["--data", str(text), *TRAIN.split(), "--parallel", "data", "--out", "refused", *words]
    done = train(size, text, *words)
    assert done.returncode == 2 and message in done.stderr, done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert not (text.parent / "refused").exists()


def test_a_run_that_is_there_is_refused_by_one_rank(text, alone):
    words = ["--data", str(text), *TRAIN.split(), "--parallel", "data", "--out", "alone"]
    done = train(2, text, *words)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1, done.stderr
    assert "holds another run" in done.stderr


# Models that are cut, and other commands.


@pytest.mark.parametrize("layout", ["tensor:2", "sequence:2", "pipeline:2"])
def test_a_model_that_is_cut_trains_as_a_whole_one(layout, text, alone):
    words = ["--data", str(text), *TRAIN.split(), "--n-layer", "2", "--dtype", "float64"]
    assert train(None, text, *words, "--parallel", "data", "--out", f"whole-{layout[:4]}").returncode == 0
    done = train(2, text, *words, "--parallel", layout, "--out", f"cut-{layout[:4]}")
    assert done.returncode == 0 and f"ranks   2 ranks, {layout}" in done.stderr, done.stderr
    whole, cut = (GPT.load(text.parent / f"{kind}-{layout[:4]}" / "last") for kind in ("whole", "cut"))
    for name, array in whole.params.items():
        np.testing.assert_allclose(cut.params[name], array, rtol=0, atol=1e-9, err_msg=name)


def test_evaluation_is_shared_to_the_same_bits(text, alone):
    command = ["-m", "numgpt", "eval", "alone", "--data", str(text)]
    several = launch(2, *command, "--parallel", "data", cwd=text.parent)
    one = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, cwd=text.parent, env=os.environ | SETTINGS
    )
    assert several.returncode == 0 and several.stdout == one.stdout and "loss" in one.stdout


def test_a_launch_without_mpi4py_is_one_line(text, tmp_path):
    (tmp_path / "mpi4py.py").write_text("raise ImportError('No module named mpi4py')")
    words = ["--data", str(text), *TRAIN.split(), "--parallel", "data", "--out", "without"]
    path = f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    done = train(2, text, *words, environment={"PYTHONPATH": path})
    assert done.returncode == 2 and "pip install mpi4py mpich" in done.stderr, done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr


STORM = "--steps 3000 --save-interval 20 --eval-interval 1000"


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_ends_with_the_bits_of_one_that_ran_through(text):
    """Any rank, at any moment, resumed on another number of ranks."""
    words = ["--data", str(text), *TRAIN.split(), *STORM.split(), "--parallel", "data"]
    assert train(None, text, *words, "--out", "through").returncode == 0
    draws = np.random.default_rng(0)
    kills = 0
    for _ in range(200):
        size = int(draws.choice([1, 2, 4]))
        process = subprocess.Popen(
            [
                MPIEXEC,
                "-n",
                str(size),
                sys.executable,
                "-m",
                "numgpt",
                "train",
                *words,
                "--out",
                "storm",
                "--resume",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            cwd=text.parent,
            env=os.environ | SETTINGS,
        )
        try:
            process.wait(float(draws.uniform(1, 5)))
        except subprocess.TimeoutExpired:
            victims = ranks_below(process.pid)
            if victims:
                kills += 1
                os.kill(int(draws.choice(victims)), signal.SIGKILL)
            process.wait(20)
        process.stderr.close()
        if process.returncode == 0:
            break
    assert kills >= 5 and process.returncode == 0
    assert content(text.parent / "storm")[0] == content(text.parent / "through")[0]


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--lr", "0.5"], "settings of rank 1 is lr 0.5, and lr 0.001 of rank 0"),
        (["--tokenizer", "bytes"], "data of rank 1 is "),
        (["--n-embd", "32"], "model of rank 1 is n_embd 32, and n_embd 16 of rank 0"),
        (["--engine", "numba"], "of rank 1 is "),
    ],
)
def test_ranks_that_were_started_with_other_words_are_told_so(words, named, text):
    here = [
        sys.executable,
        "-m",
        "numgpt",
        "train",
        "--data",
        str(text),
        *TRAIN.split(),
        "--parallel",
        "data",
    ]
    here += ["--out", "other"]
    done = subprocess.run(
        [MPIEXEC, "-n", "1", *here, ":", "-n", "1", *here, *words],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        cwd=text.parent,
        env=os.environ | SETTINGS,
    )
    assert done.returncode == 2 and done.stderr.count(named) == 1, done.stderr
    assert len([line for line in done.stderr.splitlines() if "parallel:" in line]) == 1, done.stderr


def test_two_ranks_are_timed_beside_one_process(tmp_path):
    pytest.importorskip("numba", reason="Numba is not installed")
    script = Path(__file__).parents[1] / "benchmarks" / "parallel.py"
    done = subprocess.run(
        [sys.executable, script, "--shape", "0", "--rounds", "1", "--messages"],
        capture_output=True,
        text=True,
        timeout=4 * LIMIT,  # a cold cache is filled with kernels first
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    rows = [line for line in done.stdout.splitlines() if line.startswith("| 0 | 32 | 2 ranks, 2 shards")]
    assert len(rows) == 2 and rows[1].startswith("| 0 | 32 | 2 ranks, 2 shards, by messages")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with a model, prompts, a reward and conversations."""
    folder = tmp_path_factory.mktemp("home")
    model = GPT(rewards.CONFIG, seed=3, tokenizer=Characters(rewards.LETTERS))
    model.save(folder / "base")
    (folder / "mine.py").write_text(rewards.MINE)
    rows = [{"prompt": f"{n}?", "completion": "abcd"[n % 4]} for n in range(24)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.mark.parametrize(
    "way",
    [
        "sft base --data rows.jsonl --template bare --sample-tokens 2",
        "grpo base --prompts rows.jsonl --template bare --reward mine.py:letters --max-new-tokens 4",
    ],
    ids=["sft", "grpo"],
)
def test_tuning_is_shared_to_the_same_bits(way, home):
    kind = way.split()[0]
    length = "--steps 4" if kind == "sft" else "--iterations 4"
    words = f"{way} {length} --batch-size 2 --accumulate 2 --eval-interval 2 --save-interval 2".split()
    found = []
    for size in (1, 2):
        out = f"{kind}{size}"
        done = launch(size, "-m", "numgpt", "tune", *words, "--parallel", "data", "--out", out, cwd=home)
        assert done.returncode == 0, done.stderr
        found.append(content(home / out))
        assert done.stderr.count("parameters") == 1, done.stderr
    assert found[0] == found[1]


def test_tuning_cuts_no_model(home):
    words = "sft base --data rows.jsonl --parallel tensor:2 --out cut".split()
    done = launch(2, "-m", "numgpt", "tune", *words, cwd=home)
    assert done.returncode == 2 and "expected data" in done.stderr and len(done.stderr.splitlines()) == 1
