"""lm-eval on fixed files and a random GPT-2: the same likelihoods, accuracies, answers and perplexities.

lm-eval asks for versions of its own, so it runs in a Python of its own, which NUMGPT_LM_EVAL names;
CONTRIBUTING.md says how one is made. Without it these tests skip.
"""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

import numgpt
from numgpt import GPT, Config
from numgpt.data import corpora
from numgpt.evaluation import Question, Suite, evaluate, read_suite, suite, wikitext
from numgpt.tokenizers import with_specials

PYTHON = os.environ.get("NUMGPT_LM_EVAL")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PYTHON is None, reason="NUMGPT_LM_EVAL names no Python that has lm-eval"),
]

END = "<|endoftext|>"
ACCURACIES = ("acc", "acc_norm", "acc_bytes", "acc_mutual_info")
# Of choices that differ in length, in characters and in bytes; one begins with a space, a prompt ends so.
QUESTIONS = [
    {
        "query": "She was very",
        "choices": ["fond of him", "é", "much", "to the naïve sister of it"],
        "gold": 2,
    },
    {"query": "It is a truth universally ", "choices": ["acknowledged", "known"], "gold": 0},
    {"query": "Mr. Darcy\ndanced only", "choices": [" once", "twice with her", "…"], "gold": 1},
    {
        "query": "They are " * 40 + "so",
        "choices": ["good", "bad and long, too long to be believed", "ö"],
        "gold": 0,
    },
    {"query": "He", "choices": ["had been", "have been", "has"], "gold": 0},
    {"query": "  Two spaces, and a tab\t", "choices": ["here", "there"], "gold": 1},
    {"query": "“Quotes” —", "choices": ["and dashes", "– or not"], "gold": 1},
    {"query": "The end of the", "choices": ["day", "world", "letter", "novel", "a"], "gold": 3},
]
SUMS = [{"question": f"{a} and {b} is", "answer": f"{a + b}"} for a, b in ((1, 2), (3, 4), (12, 30), (7, 7))]
SUMS += [{"question": "one and one is two, and " * 30, "answer": "two"}]  # longer than the context
TEXTS = ["A short one.", "é ö\n\n two  spaces", corpora.austen()[:1500], corpora.austen()[5000:5700]]
# A page as WikiText has it: words apart, with what lm-eval puts together.
PAGE = ' = A @-@ B = \n \n It cost 1 @,@ 000 , or 2 @.@ 5 ; " so " ( he said ) : it \'s N ° . \n'
PAGE += " = = More = = \n [ 1 ] { 2 } , the girls ' own ! Why ? \n"


def task(name, kind, rows, **settings):
    """A task of lm-eval in JSON: (its file's name, its rows', its settings)."""
    files = {"test": f"{name}.jsonl"} | settings.pop("more_files", {})
    common = {"task": name, "dataset_path": "json", "dataset_kwargs": {"data_files": files}}
    return name, rows, common | {"test_split": "test", "output_type": kind} | settings


CHOICE = {
    "doc_to_text": "{{query}}",
    "doc_to_choice": "choices",
    "doc_to_target": "gold",
    "metric_list": [{"metric": metric} for metric in ACCURACIES],
}
SHOTS = {
    "more_files": {"train": "plain.jsonl"},
    "fewshot_split": "train",
    "num_fewshot": 2,
    "fewshot_config": {"sampler": "first_n"},
    "description": "Choose well.\n\n",
    "doc_to_text": "Question: {{query}}\nAnswer:",
    "target_delimiter": "  ",
    "fewshot_delimiter": "\n##\n",
}
TASKS = [
    task("plain", "multiple_choice", QUESTIONS, **CHOICE),
    task("shots", "multiple_choice", QUESTIONS[2:], **CHOICE | SHOTS),
    task(
        "written",
        "generate_until",
        SUMS,
        doc_to_text="{{question}}",
        doc_to_target="{{answer}}",
        generation_kwargs={"until": ["\n", "e"], "max_gen_toks": 12, "do_sample": False},
        metric_list=[{"metric": "exact_match"}],
    ),
    task(
        "rolling",
        "loglikelihood_rolling",
        [{"text": text} for text in TEXTS],
        doc_to_text="",
        doc_to_target="{{text}}",
        metric_list=[{"metric": f"{m}"} for m in ("word_perplexity", "byte_perplexity", "bits_per_byte")],
    ),
]


SAVED = [
    suite("minimal-pairs", 10),
    Suite("sort", suite("sort", 4).questions, delimiter="", max_new_tokens=9),
    Suite("texts", [Question("It is a truth."), Question("She  was")]),
]


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """(folder with the tasks, the model, what lm-eval found)."""
    folder = tmp_path_factory.mktemp("lm_eval")
    tokenizer = with_specials(numgpt.tokenizers.build("bpe:400", corpora.austen()[:100_000]), [END])
    config = Config(
        vocab_size=tokenizer.vocab_size, block_size=96, n_layer=2, n_head=2, n_embd=32, activation="gelu_tanh"
    )
    model = GPT(config, seed=0, dtype="float64", tokenizer=tokenizer)
    model.params.flat[:] = np.random.default_rng(0).normal(0.0, 0.3, model.params.flat.shape)
    model.save(folder / "model", layout="hf")
    for name, rows, settings in TASKS:
        lines = [json.dumps(row, ensure_ascii=False) for row in rows]
        (folder / f"{name}.jsonl").write_text("\n".join(lines), "utf-8")
        (folder / f"{name}.yaml").write_text(json.dumps(settings))
    for saved in SAVED:
        saved.save(folder / f"{saved.name}.yaml")
    steps = Path(__file__).with_name("lm_eval_steps.py")
    quiet = os.environ | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONPATH": ""}
    quiet |= {"HF_HOME": str(folder / "cache"), "HF_DATASETS_OFFLINE": "1"}
    done = subprocess.run(
        [PYTHON, str(steps), str(folder)], capture_output=True, text=True, env=quiet, cwd=folder
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder, model, json.loads((folder / "found.json").read_text())


def ours(folder, model, name):
    """What numgpt makes of the same file, with the first examples where it takes some."""
    return evaluate(model, read_suite(folder / f"{name}.yaml"), seed=None)


def aggregated(theirs, name, metric):
    return theirs[name]["results"][f"{metric},none"]


@pytest.mark.parametrize("name", ["plain", "shots"])
def test_log_likelihoods_and_the_four_accuracies_are_theirs(asked, name):
    folder, model, theirs = asked
    result = ours(folder, model, name)
    for sample, details, question in zip(
        theirs[name]["samples"], result.details, result.suite.questions, strict=True
    ):
        contexts = {argument[0] for argument in sample["arguments"]} - {""}
        assert contexts == {details["prompt"]}
        logp = [float(answer[0][0]) for answer in sample["answers"]][: len(question.choices)]
        assert np.abs(np.subtract(logp, details["logp"])).max() < 1e-10
    for metric in ACCURACIES:
        assert result.estimate(metric).value == pytest.approx(aggregated(theirs, name, metric), abs=1e-12)
        error = aggregated(theirs, name, f"{metric}_stderr")
        assert result.estimate(metric).error == pytest.approx(error, abs=1e-12)
    told_apart = {tuple(result.measures[metric].scores) for metric in ACCURACIES}
    assert len(told_apart) > 2


def test_texts_are_rolled_as_theirs_are(asked):
    folder, model, theirs = asked
    result = ours(folder, model, "rolling")
    for sample, details in zip(theirs["rolling"]["samples"], result.details, strict=True):
        assert float(sample["answers"][0][0]) == pytest.approx(-details["nats"], rel=1e-10)
    assert max(details["tokens"] for details in result.details) > 3 * model.config.block_size
    for metric in ("word_perplexity", "byte_perplexity", "bits_per_byte"):
        expected = aggregated(theirs, "rolling", metric)
        assert result.estimate(metric).value == pytest.approx(expected, rel=1e-6)


def test_written_answers_are_theirs(asked):
    folder, model, theirs = asked
    result = ours(folder, model, "written")
    written = [sample["answers"][0][0] for sample in theirs["written"]["samples"]]
    assert [details["answers"] for details in result.details] == [[text] for text in written]
    assert any(written)
    expected = aggregated(theirs, "written", "exact_match")
    assert result.estimate("exact_match").value == pytest.approx(expected)


def test_what_a_suite_saves_is_a_task_of_theirs(asked):
    folder, model, theirs = asked
    pairs, sort, texts = (evaluate(model, read_suite(folder / f"{saved.name}.yaml")) for saved in SAVED)
    found = [float(answer[0][0]) for one in theirs["minimal-pairs"]["samples"] for answer in one["answers"]]
    assert np.abs(np.subtract(found, np.concatenate([d["logp"] for d in pairs.details]))).max() < 1e-10
    assert pairs.estimate("acc").value == aggregated(theirs, "minimal-pairs", "acc")
    for sample, details, question in zip(theirs["sort"]["samples"], sort.details, sort.suite.questions):
        assert sample["arguments"][0][0] == details["prompt"] == question.prompt
        assert sample["answers"][0][0] == details["answers"][0]
    expected = aggregated(theirs, "texts", "bits_per_byte")
    assert texts.estimate("bits_per_byte").value == pytest.approx(expected, rel=1e-6)


def test_wikitext_is_put_together_as_by_them(asked):
    folder, model, _ = asked
    (folder / "wiki.raw").write_text(PAGE * 3, "utf-8")
    code = (
        "import json, sys; from lm_eval.tasks.wikitext.preprocess_wikitext import wikitext_detokenizer;"
        "print(json.dumps(wikitext_detokenizer({'page': sys.argv[1]})))"
    )
    done = subprocess.run([PYTHON, "-c", code, PAGE], capture_output=True, text=True, check=True)
    pages = wikitext(model, folder / "wiki.raw").pages
    assert [question.prompt for question in pages.suite.questions] == [json.loads(done.stdout)] * 3
