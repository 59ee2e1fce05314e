"""numgpt eval on tasks, and numgpt runs: what is printed, written and drawn, and what is refused."""

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest

from numgpt import InputError, evaluation, plots
from numgpt.__main__ import main
from numgpt.commands.evaluate_tasks import FLAGS

TASK = """\
{"query": "She", "choices": ["was", "were"], "gold": 0, "group": "one"}
{"query": "They", "choices": ["was", "were"], "gold": 1, "group": "many"}
{"query": "We", "choices": ["was", "were"], "gold": 1, "group": "many"}
{"query": "He", "choices": ["was", "were"], "gold": 0, "group": "one"}
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "task.jsonl").write_text(TASK)
    return tmp_path


def printed(capsys, args):
    """What a command prints on stdout."""
    capsys.readouterr()
    assert main(shlex.split(args)) == 0
    return capsys.readouterr().out


def test_a_task_is_told_with_its_digest_protocol_and_errors(here, capsys):
    out = printed(capsys, "eval numgpt:austen --task task.jsonl --shots 1 --seed 3")
    suite = evaluation.read_suite("task.jsonl")
    assert f"SHA-256   {suite.digest}" in out
    assert "task      task: 4 questions with choices, from task.jsonl" in out
    assert "protocol  1 example before each drawn by seed 3, context 128" in out
    model = evaluation.tasks.GPT.load("numgpt:austen")
    result = evaluation.evaluate(model, suite, shots=1, seed=3)
    for name in ("acc", "acc_norm", "acc_bytes", "acc_mutual_info"):
        value, error = result.estimate(name)
        assert re.search(rf"^{name} +{value:.4f} ± {error:.4f}$", out, re.MULTILINE)
    value, error = result.estimate(group="many")
    assert re.search(rf"^many +2 +{value:.4f} ± {error:.4f}$", out, re.MULTILINE)


def test_two_models_are_compared_by_the_paired_difference(here, capsys):
    out = printed(capsys, "eval numgpt:austen --task minimal-pairs --limit 20 --against numgpt:tiny")
    suite = evaluation.suite("minimal-pairs", 20)
    one, other = (
        evaluation.evaluate(evaluation.tasks.GPT.load(f"numgpt:{name}"), suite) for name in ("austen", "tiny")
    )
    value, error = one.difference(other)
    assert re.search(rf"^acc +.*{re.escape(f'{value:+.4f} ± {error:.4f}')}$", out, re.MULTILINE)
    assert "acc_mutual_info" not in out


def test_the_page_shows_what_the_command_prints(here, capsys):
    page = (Path(evaluation.__file__).parent / "README.md").read_text("utf-8")
    shown = re.search(r"```sh\nnumgpt (eval .*) --plot scores.svg\n```\n\n```text\n(.*?)```", page, re.DOTALL)
    assert printed(capsys, shown[1]) == shown[2]


def test_answers_are_written_to_a_file_that_is_a_task_again(here, capsys):
    printed(capsys, "eval numgpt:austen --task copy --limit 6 --max-new-tokens 4 --out answers.jsonl")
    assert evaluation.read_suite("answers.jsonl").questions == evaluation.suite("copy", 6).questions
    rows = [json.loads(line) for line in (here / "answers.jsonl").read_text().splitlines()]
    assert all(len(row["results"]["numgpt:austen"]["answers"]) == 1 for row in rows)


def test_random_labels_stand_beside_right_ones(here, capsys):
    out = printed(capsys, "eval numgpt:tiny --task labels --limit 10 --shots 2 --random-labels")
    assert re.search(r"^measure +right labels +random labels +difference$", out, re.MULTILINE)


def test_none_right_is_no_certainty(here, capsys):
    out = printed(capsys, "eval numgpt:austen --task reverse --limit 10 --max-new-tokens 6")
    assert "exact_match     0.0000 ± 0.0000" in out
    assert "up to 30.0% may be otherwise (95 %)" in out


def test_samples_are_told_by_pass_at_k(here, capsys):
    out = printed(
        capsys, "eval numgpt:austen --task copy --limit 5 --samples 2 --temperature 1 --max-new-tokens 3"
    )
    assert "2 at temperature 1, at most 3 tokens up to '\\n'" in out and "pass@2" in out


def test_texts_of_a_file_have_perplexities(here, capsys):
    (here / "texts.jsonl").write_text('{"text": "It is a truth."}\n{"text": "She was not."}\n')
    out = printed(capsys, "eval numgpt:austen --task texts.jsonl --against numgpt:tiny")
    assert "task      texts: 2 texts to be predicted" in out
    assert re.search(r"^word_perplexity .* \(of ln\)$", out, re.MULTILINE)


def test_loss_by_position_wikitext_and_lambada_print_their_protocols(here, capsys):
    text = " = A = \n \n It is a truth , that she was not . \n" * 20
    (here / "wiki.raw").write_text(text)
    (here / "lambada.jsonl").write_text('{"text": "She was not at all"}\n{"text": "It is a truth"}\n')
    out = printed(capsys, "eval numgpt:austen --by-position --data wiki.raw --limit 2")
    assert "windows   2 of 128 tokens, which do not overlap" in out and "2–3" in out
    assert "the loss at 100 less that at 20" in out
    out = printed(capsys, "eval numgpt:austen --wikitext wiki.raw --limit 300")
    assert "299 tokens, context 128, stride 64" in out and "each alone and put together again" in out
    out = printed(capsys, "eval numgpt:tiny --lambada lambada.jsonl")
    assert "passages    2 of lambada.jsonl, the last word of each" in out and "accuracy" in out


def test_cloze_is_made_of_the_text_that_is_named(here, capsys):
    words = "truth words great other small house quite"
    (here / "text.txt").write_text("\n".join(f"{'so ' * 66}{words} {n * 'x'}" for n in range(9)))
    out = printed(capsys, "eval numgpt:tiny --task cloze --data text.txt --limit 2")
    assert "task      cloze: 2 questions with choices, generated from seed 0 and text.txt" in out


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ("--task nothing", "nothing is no file and no suite, expected a file of questions, or minimal-pairs"),
        ("--task cpoy", "did you mean copy"),
        ("--task copy --template x", "--template is of questions in a file, expected none with copy"),
        ("--task copy --data task.jsonl", "--data needs --task cloze or --by-position, not --task copy"),
        (
            "--task task.jsonl --shots 4",
            "task: 4 examples are to stand before a question, expected at most 3",
        ),
        (
            "--task task.jsonl --template {{x}}",
            "task.jsonl, line 1: has the fields 'query', 'choices', 'gold'",
        ),
        ("--task task.jsonl --out task.jsonl", "task.jsonl: is read and would be written over"),
        ("--task task.jsonl copy --out a.jsonl", "--out is of one task, expected no other: leave out copy"),
        ("--task task.jsonl --plot a.txt", "a.txt: ends with .txt, expected a name that ends with .png"),
        ("--task task.jsonl --stride 3", "--stride needs --wikitext, not --task"),
        ("--task copy --samples 2", "samples is 2 at temperature 0"),
        ("--task sums.jsonl --max-new-tokens 64", "--max-new-tokens is 64, expected less than block_size 64"),
        ("--task copy --random-labels --shots 0", "--random-labels needs --shots K"),
        ("--task labels --random-labels --against numgpt:austen", "expected no --against beside it"),
        ("--task labels --limit 99", "labels has some 72 different questions, expected 99 of them"),
        ("--task add", "add, question 1: text: character"),
        ("--shots 2", "--shots needs --task"),
        ("--wikitext task.jsonl", "task.jsonl: has no line such as ' = Title = '"),
        ("--wikitext task.jsonl --task copy", "not allowed with argument"),
        ("--lambada one.jsonl", "one.jsonl, line 1: text is 'one', expected a passage of two words or more"),
        ("--by-position --data one.txt", "expected 130 or more: two windows of block_size + 1"),
        ("--task empty.jsonl", "empty.jsonl: is empty, expected questions as JSON, an object a line"),
        ("--task broken.jsonl", "broken.jsonl, line 1: "),
        ("--task joined.jsonl", "joined.jsonl, line 1: "),
    ],
)
def test_bad_input_is_one_line(here, capsys, args, message):
    (here / "one.jsonl").write_text('{"text": "one"}\n')
    (here / "one.txt").write_text("It is a truth")
    (here / "sums.jsonl").write_text('{"question": "one and one is", "answer": "two"}\n')
    (here / "empty.jsonl").write_text("\n")
    (here / "broken.jsonl").write_text('{"query": \n')
    (here / "joined.jsonl").write_text(
        '{"query": "' + "a" * 9 + '", "choices": ["b", "' + "b" * 65 + '"], "gold": 0}\n'
    )
    capsys.readouterr()
    assert main(["eval", "numgpt:tiny", *shlex.split(args)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("numgpt: ") and error.count("\n") == 1
    assert message in error


def test_every_flag_of_a_task_is_refused_where_it_changes_nothing(here, capsys):
    given = {"random_labels": "", "plot": "a.png", "data": "task.jsonl", "special": "allow", "template": "a"}
    every = dict.fromkeys(flag for own in FLAGS.values() for flag in own)
    for flag in every:
        if flag in FLAGS["lambada"]:
            continue
        words = f"--{flag.replace('_', '-')} {given.get(flag, '1')}"
        assert main(["eval", "numgpt:tiny", "--lambada", "task.jsonl", *words.split()]) == 2
        assert f"--{flag.replace('_', '-')} needs" in capsys.readouterr().err


# Pictures.


def test_scores_and_positions_are_drawn_as_they_were_found(here, capsys):
    matplotlib = pytest.importorskip(
        "matplotlib", reason="matplotlib is not installed: pip install '.[plot]'"
    )
    matplotlib.use("Agg")
    model = evaluation.tasks.GPT.load("numgpt:tiny")
    result = evaluation.evaluate(model, evaluation.read_suite("task.jsonl"))
    ax = plots.scores({"a": result, "b": result})
    line = next(line for line in ax.lines if line.get_gid() == "scores 1")
    expected = [result.estimate(group=group).value for group in (None, "one", "many")]
    assert line.get_ydata().tolist() == pytest.approx(expected)
    (chance,) = (line for line in ax.lines if line.get_label() == "chance")
    assert set(chance.get_ydata()) == {0.5}
    assert [text.get_text() for text in ax.get_xticklabels()] == ["all 4", "one", "many"]
    curve = evaluation.loss_by_position(model, model.tokenizer.encode("It is a truth " * 40))
    ax = plots.positions(curve)
    (line,) = (line for line in ax.lines if line.get_gid() == "positions 0")
    assert line.get_ydata().tolist() == curve.mean.tolist()
    with pytest.raises(InputError, match="scores: found is int, expected what numgpt.evaluation gives"):
        plots.scores(3)
    printed(capsys, "eval numgpt:tiny --task task.jsonl --plot scores.svg")
    printed(capsys, "eval numgpt:tiny --by-position --data numgpt:austen --limit 4 --plot positions.png")
    assert (here / "scores.svg").read_text().startswith("<?xml")
    assert (here / "positions.png").read_bytes().startswith(b"\x89PNG")
    matplotlib.pyplot.close("all")


# Runs.

TRAIN = (
    "train --preset gpt-nano --n-layer 1 --n-head 2 --n-embd 8 --block-size 16 --batch-size 2 --eval-iters 1"
)
TRAIN += " --tokenizer chars --eval-interval 2 --warmup 1 --sample-tokens 0 --steps 4 --data text.txt"


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """A folder in which runs/1, runs/2 and runs/10 differ in the learning rate."""
    folder = tmp_path_factory.mktemp("three")
    (folder / "text.txt").write_text("she sells sea shells by the sea shore. " * 60)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name, lr in (("1", "0.001"), ("2", "0.1"), ("10", "0.02")):
            assert main([*TRAIN.split(), "--lr", lr, "--out", f"runs/{name}"]) == 0
    return folder


@pytest.fixture
def runs(three, tmp_path, monkeypatch):
    shutil.copytree(three, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here/runs"


def test_runs_are_listed_by_number_and_by_their_best_loss(runs, capsys):
    head, *rows = printed(capsys, "runs").splitlines()
    assert head.split("  ")[0] == "run" and "best held-out" in head
    assert [row.split()[0] for row in rows] == ["runs/1", "runs/2", "runs/10"]
    found = {f"runs/{name}": plots.read(runs / name) for name in ("1", "2", "10")}
    for row in rows:
        name = row.split()[0]
        assert f"{found[name].best[1]:.4f}" in row and " 4 " in row
    model = evaluation.tasks.GPT.load(runs / "1")
    assert all(f" {model.n_params:,} " in row for row in rows)
    ordered = printed(capsys, "runs --sort best").splitlines()[1:]
    assert [row.split()[0] for row in ordered] == sorted(found, key=lambda name: found[name].best[1])


def test_runs_that_are_named_are_compared(runs, capsys):
    assert printed(capsys, "runs runs/1 runs/10") == f"{plots.table(['runs/1', 'runs/10'])}\n"
    (runs.parent / "text.txt").write_text("another text, of other words. " * 60)
    assert main([*TRAIN.split(), "--out", "other"]) == 0
    capsys.readouterr()
    assert main(["runs", "runs/1", "other"]) == 0
    assert "runs/1 and other have other texts or tokens: their losses" in capsys.readouterr().err


def test_what_is_no_run_is_left_out_or_refused(runs, capsys):
    (runs / "3").mkdir()
    (runs / "3/log.jsonl").write_text("")
    capsys.readouterr()
    assert main(["runs"]) == 0
    done = capsys.readouterr()
    assert "left out: runs/3/log.jsonl: has no entries yet" in done.err and "runs/3" not in done.out
    (runs.parent / "void").mkdir()
    for args, message in (
        ("void", "runs: void holds no run with a log, expected one: make it with numgpt train --out void/1"),
        ("nowhere", "runs: nowhere does not exist, expected a folder with runs"),
        ("runs/1 nowhere", "nowhere: does not exist, expected the folder of a run"),
    ):
        assert main(["runs", *args.split()]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
