"""What models are asked and how it is counted: likelihoods, prompts, written answers, errors, files."""

import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import numgpt
from numgpt import GPT, Config, InputError
from numgpt.evaluation import (
    Question,
    Suite,
    answers,
    benchmarks,
    bootstrap,
    difference,
    estimate,
    evaluate,
    lambada,
    log_likelihoods,
    loss_by_position,
    pass_at_k,
    read_suite,
    suite,
    tasks,
    wikitext,
)
from numgpt.evaluation.answers import is_exact, is_near
from numgpt.evaluation.likelihoods import encoded
from numgpt.evaluation.score import score
from numgpt.evaluation.suites import NAMES
from numgpt.model.generate import KeyValueCache, advance
from numgpt.tokenizers import Bytes, Characters, with_specials

END = "<|endoftext|>"
LETTERS = "".join(sorted("abcdefgh \n.=0123456789+"))
SIZES = {"block_size": 12, "n_layer": 2, "n_head": 2, "n_embd": 8}


def random_model(tokenizer, **settings):
    """Of parameters that are large, so that what is before a token counts."""
    config = Config(vocab_size=tokenizer.vocab_size, **SIZES | settings)
    model = GPT(config, seed=0, dtype="float64", tokenizer=tokenizer)
    model.params.flat[:] = np.random.default_rng(1).normal(0.0, 0.6, model.params.flat.shape)
    return model


MODEL = random_model(with_specials(Characters(LETTERS), [END]))
BYTES = random_model(Bytes(), positions="rotary")


def one_by_one(model, ids, n):
    """Σ ln p of the last n of some ids, token by token."""
    total = 0.0
    for t in range(len(ids) - n, len(ids)):
        row = model(ids[:t])[-1]
        total += row[ids[t]] - math.log(np.exp(row - row.max()).sum()) - row.max()
    return total


# Likelihoods.

TEXTS = st.text(alphabet="abcdefgh .", min_size=1, max_size=9)
PAIRS = st.lists(st.tuples(st.text(alphabet="abc ", max_size=6), TEXTS), min_size=1, max_size=7)


@given(pairs=PAIRS, size=st.integers(1, 5), seed=st.integers(0, 9))
def test_a_likelihood_depends_on_neither_batch_nor_padding_nor_order(pairs, size, seed):
    order = np.random.default_rng(seed).permutation(len(pairs))
    together = log_likelihoods(MODEL, [pairs[i] for i in order], batch_size=size)
    for i, one in zip(order, together):
        (alone,) = log_likelihoods(MODEL, [pairs[i]])
        assert one.logp == pytest.approx(alone.logp, rel=1e-12, abs=1e-12)
        assert one[1:] == alone[1:]


@pytest.mark.parametrize("model", [MODEL, BYTES], ids=["characters", "bytes"])
@given(context=TEXTS.filter(str.strip), continuation=TEXTS)
def test_a_likelihood_is_the_sum_over_its_tokens_with_all_before_them(model, context, continuation):
    (found,) = log_likelihoods(model, [(context, continuation)])
    ids = model.tokenizer.encode(context + continuation)
    n = found.tokens
    assert n == len(continuation) + len(context) - len(context.rstrip())
    cut = max(0, len(ids) - 1 - 12)
    assert found.cut == cut
    expected = one_by_one(model, ids[cut:], n)
    assert found.logp == pytest.approx(expected, rel=1e-12, abs=1e-12)


def test_a_likelihood_is_the_one_that_the_cache_gives():
    ids = MODEL.tokenizer.encode("abc def")
    cache, total = KeyValueCache(), 0.0
    for here, after in itertools.pairwise(ids):
        row = advance(MODEL, np.array([[here]]), cache)[0]
        total += row.ravel()[after] - math.log(np.exp(row).sum())
    (found,) = log_likelihoods(MODEL, [("a", "bc def")])
    assert found.logp == pytest.approx(total, rel=1e-12)


def test_greedy_is_what_the_model_would_write():
    ids = MODEL.generate(MODEL.tokenizer.encode("abc"), 4, temperature=0.0)
    written = MODEL.tokenizer.decode(ids[3:], errors="replace")
    other = "a" if written[-1] != "a" else "b"
    likely, unlikely = log_likelihoods(MODEL, [("abc", written), ("abc", written[:-1] + other)])
    assert likely.greedy and not unlikely.greedy


def test_spaces_move_to_the_continuation_and_both_are_encoded_together():
    text = "the cat the cat the catcat the hat " * 30
    model = random_model(numgpt.tokenizers.build("bpe:300", text))
    moved, plain = encoded(model, "the ", "cat"), encoded(model, "the", " cat")
    assert moved.targets.tolist() == plain.targets.tolist() == model.tokenizer.encode(" cat").tolist()
    with pytest.raises(InputError, match="'at' has 0 tokens behind its context, expected 1 to block_size 12"):
        encoded(model, "the c", "at")


def test_a_text_begins_behind_a_special_token_or_a_line_break():
    end = MODEL.tokenizer.specials[END]
    assert encoded(MODEL, "", "ab").inputs.tolist() == [end, LETTERS.index("a")]
    assert encoded(BYTES, "", "ab").inputs.tolist() == [10, 97]
    assert encoded(BYTES, "", "\nab").targets.tolist() == [97, 98]  # no text begins with it twice
    no_break = random_model(Characters("ab"))
    with pytest.raises(InputError, match="has no special token and no line break, expected one of them"):
        log_likelihoods(no_break, [("", "a")])


def test_where_every_text_begins_with_a_token_so_does_every_prompt(monkeypatch):
    model = random_model(with_specials(Bytes(), ["<s>"]))
    monkeypatch.setattr(type(model.tokenizer), "begin_of_text", property(lambda self: "<s>"))
    assert encoded(model, "ab", "c").inputs.tolist() == [256, 97, 98]
    assert encoded(model, "", "c").inputs.tolist() == [256]
    read = []
    monkeypatch.setattr(
        answers, "stream", lambda model, tokens, n, **options: read.extend(tokens) or iter(())
    )
    evaluate(model, Suite("s", [Question("ab", answers=["c"])]), max_new_tokens=1)
    assert read[0].tolist() == [256, 97, 98]


@pytest.mark.parametrize(
    ("pair", "message"),
    [(("a", ""), "'' has 0 tokens"), (("a", "b" * 13), "has 13 tokens behind its context, expected 1 to")],
)
def test_what_cannot_be_asked_is_an_error(pair, message):
    with pytest.raises(InputError, match=message):
        log_likelihoods(MODEL, [pair])


def test_texts_are_rolled_in_windows_that_predict_each_token_once():
    text = "abcdefgh.abcdefghabcdefgh..ab"  # 29 characters, block_size 12
    found = evaluate(MODEL, Suite("t", [Question(text), Question("a")]))
    ids = np.concatenate([[MODEL.tokenizer.specials[END]], MODEL.tokenizer.encode(text)])
    nats = (
        -one_by_one(MODEL, ids[:13], 12) - one_by_one(MODEL, ids[12:25], 12) - one_by_one(MODEL, ids[17:], 5)
    )
    assert found.details[0]["nats"] == pytest.approx(nats, rel=1e-12)
    assert [details["tokens"] for details in found.details] == [29, 1]
    both = nats + found.details[1]["nats"]
    assert found.estimate("perplexity").value == pytest.approx(math.exp(both / 30), rel=1e-12)
    assert found.estimate("word_perplexity").value == pytest.approx(math.exp(both / 2), rel=1e-12)
    loss, perplexity = found.estimate("loss"), found.estimate("perplexity")
    assert perplexity.error == pytest.approx(math.exp(loss.value) * loss.error, rel=1e-12)
    assert found.estimate("bits_per_byte").value == pytest.approx(both / 30 / math.log(2), rel=1e-12)


# Choices.


def test_each_accuracy_divides_by_its_own(monkeypatch):
    """Four choices, each the best by one accuracy alone: by Σ ln p, characters, bytes and tokens."""
    choices = ("a", "bcd", "éé", "ef gh a")
    conditional = {"a": -1.0, "bcd": -1.5, "éé": -1.1, "ef gh a": -7.0}
    counts = {"a": 1, "bcd": 2, "éé": 1, "ef gh a": 20}
    alone = {"a": -2.0, "bcd": -2.0, "éé": -1.0, "ef gh a": -60.0}
    model = random_model(Bytes(), block_size=40)

    def said(model, asked, batch_size, progress=None):
        for one in asked:
            text = bytes(one.targets.tolist()).decode().strip()
            given = conditional if len(one.inputs) > len(one.targets) else alone
            yield np.full(counts[text], given[text] / counts[text]), np.zeros(counts[text], bool)

    monkeypatch.setattr(tasks, "surprises", said)
    asked = Suite("s", [Question("xyz", choices, gold) for gold in range(4)])
    (details, *_) = evaluate(model, asked).details
    assert details["chosen"] == {
        "acc": 0, "acc_norm": 1, "acc_bytes": 2, "acc_mutual_info": 3, "acc_tokens": 3,
    }  # fmt: skip
    asked = Suite("s", [Question("xyz", ("a", "éé"), 0)])
    (details,) = evaluate(model, asked).details
    assert (details["chosen"]["acc_norm"], details["chosen"]["acc_bytes"]) == (1, 1)
    conditional["éé"] = -3.0  # 1.5 a character, 0.75 a byte
    (details,) = evaluate(model, asked).details
    assert (details["chosen"]["acc_norm"], details["chosen"]["acc_bytes"]) == (0, 1)


def test_where_nothing_stands_before_there_is_no_mutual_information():
    asked = Suite("s", [Question(choices=("ab", "cd"))], delimiter="")
    assert "acc_mutual_info" not in evaluate(MODEL, asked).measures


def test_a_prompt_that_is_cut_is_counted_and_its_end_is_read(monkeypatch):
    texts = ("ab" * 5, "ab" * 6, "abcdefgh" * 3)
    choices = Suite("s", [Question(text, ("c", "dd")) for text in texts], delimiter="")
    found = evaluate(MODEL, choices)
    assert found.cut == 2  # of 10 and 2 tokens all but the last are read, of 12 and 2 one is too many
    ends = Suite("s", [Question(text[-11:], ("c", "dd")) for text in texts], delimiter="")
    assert found.details[2]["logp"][1] == evaluate(MODEL, ends).details[2]["logp"][1]
    written = Suite("s", [Question(text, answers=["c"]) for text in texts], stop=())
    found = evaluate(MODEL, written, max_new_tokens=2)  # which leaves room for 10
    assert found.cut == 2
    read = []
    monkeypatch.setattr(answers, "stream", lambda model, tokens, n, **how: read.extend(tokens) or iter(()))
    evaluate(MODEL, written, max_new_tokens=2)
    assert [MODEL.tokenizer.decode(ids) for ids in read] == [text[-10:] for text in texts]


def test_no_number_depends_on_the_batch():
    asked = suite("recall", 10)
    model = numgpt.GPT.load("numgpt:tiny", dtype="float64")
    one, other = (evaluate(model, asked, batch_size=size) for size in (1, 7))
    for a, b in zip(one.details, other.details):
        assert a["chosen"] == b["chosen"]
        assert np.allclose(a["logp"], b["logp"], rtol=1e-12, atol=0)


# Examples before a question.


def test_examples_are_drawn_for_each_question_and_never_hold_it():
    asked = suite("copy", 20)
    few = Suite("copy", asked.questions[:5], examples=asked.questions, delimiter="", separator="\n")
    prompts = few.prompts(3, seed=4)
    for question, prompt in zip(few.questions, prompts):
        *examples, last = prompt.split("\n")
        assert last == question.prompt and len(set(examples)) == 3
        assert f"{question.prompt}{question.target}" not in examples
    assert len({prompt.rpartition("\n")[0] for prompt in prompts}) == 5
    assert few.prompts(3, seed=4) == prompts != few.prompts(3, seed=5)
    fewer = Suite("copy", few.questions[:2], examples=asked.questions, delimiter="", separator="\n")
    assert fewer.prompts(3, seed=4) == prompts[:2]
    first = few.prompts(2, seed=None)[4]
    assert first.split("\n")[:2] == [f"{q.prompt}{q.target}" for q in asked.questions[:2]]


def test_random_labels_change_the_answers_of_examples_alone():
    asked = suite("labels", 40)
    right, drawn = (asked.prompts(8, random_labels=flag) for flag in (False, True))
    changed = 0
    for one, other in zip(right, drawn):
        pairs = [[line.split(": ") for line in text.split("\n")] for text in (one, other)]
        assert [line[0] for line in pairs[0]] == [line[0] for line in pairs[1]]
        changed += sum(a != b for a, b in zip(*pairs))
    assert 0.4 < changed / (8 * 40) < 0.6  # half of two labels drawn at random are other ones


def test_examples_that_there_are_not_are_an_error():
    asked = Suite("s", [Question("a", answers=["b"]), Question("c", answers=["d"])])
    with pytest.raises(InputError, match="s: 2 examples are to stand before a question, expected at most 1"):
        asked.prompts(2)
    with pytest.raises(InputError, match="shots is 1, expected 0 of texts"):
        Suite("t", [Question("a")]).prompts(1)


# Written answers.


def test_written_answers_end_before_a_stop_string_and_depend_on_no_batch():
    questions = [Question(text, answers=["a"]) for text in ("ab", "cde", "h", "bad", "8+1=")]
    asked = Suite("s", questions, stop=("e", "\n"))
    found = [evaluate(MODEL, asked, max_new_tokens=6, batch_size=size) for size in (1, 3, 8)]
    texts = [[one["answers"] for one in result.details] for result in found]
    assert texts[0] == texts[1] == texts[2]
    whole = evaluate(MODEL, Suite("s", questions, stop=()), max_new_tokens=6)
    assert any("e" in one["answers"][0] for one in whole.details)
    for (text,), one in zip(texts[0], whole.details):
        assert text == one["answers"][0].partition("e")[0].partition("\n")[0]


def test_an_answer_ends_where_the_text_does(monkeypatch):
    a, b, end = (*MODEL.tokenizer.encode("ab"), MODEL.tokenizer.specials[END])
    said = [[a, b], [b, end], [end, b], [b, b]]
    monkeypatch.setattr(answers, "stream", lambda *given, **options: iter(np.array(said)))
    asked = Suite("s", [Question(text, answers=["a"]) for text in ("ab", "cd")], stop=("bb",))
    assert [d["answers"] for d in evaluate(MODEL, asked).details] == [["ab"], ["b"]]


def test_samples_depend_on_seed_and_question_alone_and_make_pass_at_k():
    asked = Suite(
        "s", [Question(text, answers=["a", "b", ""[:0] or "c"]) for text in ("ab", "cd", "ef")], stop=()
    )
    options = {"samples": 4, "temperature": 1.0, "max_new_tokens": 1}
    one, other = (evaluate(MODEL, asked, batch_size=size, **options) for size in (1, 8))
    assert [d["answers"] for d in one.details] == [d["answers"] for d in other.details]
    assert len({text for d in one.details for text in d["answers"]}) > 1
    again = evaluate(MODEL, asked, seed=5, **options)
    assert [d["answers"] for d in again.details] != [d["answers"] for d in one.details]
    assert list(one.measures) == ["exact_match", "flexible_match", "pass@1", "pass@2", "pass@4"]
    assert one.estimate("pass@1").value == pytest.approx(one.estimate("exact_match").value, rel=1e-12)
    with pytest.raises(InputError, match="samples is 4 at temperature 0, where all are the same"):
        evaluate(MODEL, asked, samples=4)


@pytest.mark.parametrize(
    ("text", "answer", "exact", "near"),
    [
        (" 42\n", "42", True, True),
        ("so it is 1,042.", "1042", False, True),
        ("42 or 43", "42", False, False),
        ("$42.0", "42", False, True),
        ("The Cat.", "a cat", False, True),
        ("cats", "cat", False, False),
        ("", "cat", False, False),
        ("?", "!", False, False),
        ("-3", "3", False, False),
    ],
)
def test_what_is_exact_and_what_is_near(text, answer, exact, near):
    assert (is_exact(text, [answer, "zzz"]), is_near(text, [answer, "zzz"])) == (exact, near)


# Errors of measures.


@given(n=st.integers(1, 9), data=st.data())
def test_pass_at_k_counts_the_subsets_that_hold_a_right_sample(n, data):
    right, k = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
    subsets = list(itertools.combinations(range(n), k))
    expected = sum(any(i < right for i in subset) for subset in subsets) / len(subsets)
    assert pass_at_k(n, right, k) == pytest.approx(expected, abs=1e-12)


def test_the_error_of_a_mean_and_of_a_ratio_is_how_much_they_scatter():
    rng = np.random.default_rng(0)
    words = rng.integers(5, 50, (4000, 60)).astype(float)
    nats = words * rng.normal(3.0, 0.5, words.shape) + rng.normal(0.0, 2.0, words.shape)
    for weights in (None, words):
        found = [estimate(x, None if weights is None else w) for x, w in zip(nats, words)]
        scatter = np.std([one.value for one in found])
        assert np.mean([one.error for one in found]) == pytest.approx(scatter, rel=0.05)
    assert bootstrap(nats[0], words[0]).error == pytest.approx(estimate(nats[0], words[0]).error, rel=0.1)


def test_a_paired_difference_is_surer_than_its_sides():
    rng = np.random.default_rng(0)
    hard = rng.random(500)
    one, other = (hard + 0.05 * shift + 0.1 * rng.random(500) > 0.6 for shift in (1, 0))
    found = difference(one, other)
    sides = math.hypot(estimate(one).error, estimate(other).error)
    assert found.value == pytest.approx(one.mean() - other.mean())
    assert found.error < 0.5 * sides


def test_results_are_compared_on_the_same_questions_alone():
    one, other = (evaluate(BYTES, suite("copy", n), shots=0, max_new_tokens=2) for n in (2, 3))
    with pytest.raises(InputError, match="expected results on the same questions"):
        one.difference(other)
    with pytest.raises(InputError, match=r"copy: has no measure 'acc', expected one of exact_match"):
        one.estimate("acc")
    with pytest.raises(InputError, match="has no group '9 letters', expected one of 3 letters, 4 letters"):
        one.estimate(group="9 letters")


# By position.


def test_losses_by_position_are_those_of_the_windows():
    ids = np.random.default_rng(0).integers(0, 20, 70)
    found = loss_by_position(MODEL, ids)
    assert found.losses.shape == (5, 12)
    for n, losses in enumerate(found.losses):
        window = ids[13 * n : 13 * n + 13]
        assert losses.mean() == pytest.approx(float(MODEL.loss(window[:-1], window[1:])), rel=1e-12)
    assert found.error == pytest.approx(np.std(found.losses, axis=0, ddof=1) / math.sqrt(5), rel=1e-12)
    early, late = found.places
    assert found.score().value == pytest.approx(found.mean[late - 1] - found.mean[early - 1])
    assert loss_by_position(MODEL, ids, windows=2).losses[1].tolist() == pytest.approx(
        found.losses[2].tolist()
    )
    with pytest.raises(InputError, match="has 25 tokens, expected 26 or more: two windows"):
        loss_by_position(MODEL, ids[:25])
    with pytest.raises(InputError, match="positions 3 and 13, expected two from 1 to 12"):
        found.score(3, 13)


# Files.

SHAPES = {
    "place": ({"query": "a", "choices": ["b", "c"], "gold": 1}, Question("a", ("b", "c"), 1)),
    "text of the choice": (
        {"question": "a", "choices": ["b", "c"], "answer": "c"},
        Question("a", ("b", "c"), 1),
    ),
    "letter": ({"question": "a", "choices": ["b", "c"], "answer": "B"}, Question("a", ("b", "c"), 1)),
    "digit": ({"ctx": "a", "endings": ["b", "c"], "label": "1"}, Question("a", ("b", "c"), 1)),
    "ARC": (
        {"question": "a", "choices": {"text": ["b", "c"], "label": ["1", "2"]}, "answerKey": "2"},
        Question("a", ("b", "c"), 1),
    ),
    "BLiMP": ({"sentence_good": "a b", "sentence_bad": "b a"}, Question("", ("a b", "b a"), 0)),
    "answer": ({"question": "a", "answer": 7}, Question("a", answers=("7",))),
    "answers": ({"prompt": "a", "answers": ["b", "c"]}, Question("a", answers=("b", "c"))),
    "GSM8K": ({"question": "a", "answer": "2 + 3 = 5\n#### 5"}, Question("a", answers=("5",))),
    "text": ({"text": "a b", "group": "g"}, Question("a b", group="g")),
}


@pytest.mark.parametrize("name", SHAPES)
def test_a_row_of_each_shape_is_its_question(tmp_path, name):
    row, question = SHAPES[name]
    path = tmp_path / "task.jsonl"
    path.write_text(json.dumps(row) + "\n")
    assert read_suite(path).questions == (question,)
    assert read_suite(path).questions[0].place == f"{path}, line 1"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"choices": ["a", "b"], "gold": 0}, "expected a prompt: one of query, question"),
        ({"query": "a", "choices": ["b", "c"]}, "expected the right choice: one of gold, answer"),
        ({"query": "a", "choices": ["b", "c"], "gold": 2}, "gold is 2, expected the right choice: its place"),
        ({"query": "a", "choices": ["b", "c"], "gold": True}, "gold is True, expected the right choice"),
        ({"query": "a", "choices": ["b"], "gold": 0}, "has choices .'b'., expected two or more"),
        ({"query": "a", "choices": ["b", ""], "gold": 0}, "one of them empty"),
        ({"query": "a", "choices": "bc", "gold": 0}, "choices is 'bc', expected a list of texts"),
        ({"query": " ", "choices": ["b", "c"], "gold": 0}, "query is ' ', expected a text that is not empty"),
        ({"question": "a"}, "expected choices, or an answer: one of answer, answers"),
        ({"question": "a", "answer": " "}, "answer is ' ', expected a text that is not empty"),
        ({"question": "a", "answer": None}, "answer is None, expected a text that is not empty"),
        ({"other": "a"}, "has the fields 'other', expected query and choices, question and answer, or text"),
        ({"text": "a", "group": 3}, "group is 3, expected a text"),
    ],
)
def test_a_row_that_is_no_question_is_named(tmp_path, row, message):
    path = tmp_path / "task.jsonl"
    path.write_text(
        json.dumps({"text": "fine"} if "text" in row else SHAPES["place"][0]) + f"\n{json.dumps(row)}\n"
    )
    with pytest.raises(InputError, match=rf"task.jsonl, line 2: .*{message}"):
        read_suite(path)


def test_questions_of_two_kinds_are_no_task(tmp_path):
    path = tmp_path / "task.jsonl"
    path.write_text('{"text": "a"}\n{"question": "a", "answer": "b"}\n')
    with pytest.raises(InputError, match="line 2: is of the kind 'answer', expected 'text' as .*line 1 is"):
        read_suite(path)


@pytest.mark.parametrize("name", [*NAMES, "texts", "with examples"])
def test_a_saved_suite_is_read_as_it_was(tmp_path, name):
    if name in NAMES:
        made = suite(name, 12)
    elif name == "texts":
        made = Suite(name, [Question("a"), Question("b c")])
    else:
        asked = suite("copy", 9).questions
        made = Suite(name, asked[:3], asked[3:], "Copy.\n", "->", "\n\n", ("\n", "."), 2, 7)
    made.save(tmp_path / "rows.jsonl")
    assert read_suite(tmp_path / "rows.jsonl").questions == made.questions
    if made.kind == "answer":  # which a model may be fine-tuned on, too
        said = [[m.text for m in c.messages] for c in numgpt.data.read_conversations(tmp_path / "rows.jsonl")]
        assert said == [[question.prompt, question.target] for question in made.questions]
    for ending in ("json", "yaml"):
        made.save(tmp_path / f"task.{ending}")
        assert read_suite(tmp_path / f"task.{ending}") == made
        assert read_suite(tmp_path / f"task.{ending}").digest == made.digest


def test_a_template_and_the_settings_of_lm_eval_make_prompts(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(
        '{"q": "one", "options": ["a", "b"], "n": 1}\n{"q": "two", "options": ["a", "b"], "n": 0}\n'
    )
    task = {
        "task": "mine", "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": "rows.jsonl"}},
        "test_split": "test", "output_type": "multiple_choice", "doc_to_text": "Q: {{q}}?\nA:",
        "doc_to_choice": "{{options}}", "doc_to_target": "n", "num_fewshot": 1, "description": "Think.\n",
        "fewshot_delimiter": "\n--\n", "target_delimiter": " = ",
    }  # fmt: skip
    (tmp_path / "task.json").write_text(json.dumps(task))
    made = read_suite(tmp_path / "task.json")
    assert made.name == "mine" and made.prompts()[0] == "Think.\nQ: two?\nA: = a\n--\nQ: one?\nA:"
    made = read_suite(tmp_path / "task.json", template="{{ q }}:")
    assert made.questions[0].prompt == "one:"
    for name, value, message in (
        ("doc_to_text", "{{q|upper}}", "is one of Jinja's, expected {{name}} of fields alone"),
        (
            "doc_to_text",
            "{{r}}",
            "has the fields 'q', 'options', 'n', expected 'r', which the template names",
        ),
        ("process_docs", "f", "has the setting 'process_docs', which numgpt does not follow"),
        ("dataset_path", "squad", "dataset_path is 'squad', expected 'json'"),
        (
            "generation_kwargs",
            {"do_sample": True},
            "generation_kwargs has do_sample True, expected until and",
        ),
    ):
        (tmp_path / "task.json").write_text(json.dumps(task | {name: value}))
        with pytest.raises(InputError) as error:
            read_suite(tmp_path / "task.json")
        assert message in str(error.value)


# Generated suites.

DIGESTS = {
    "minimal-pairs": "230cc7b4ae320df5",
    "copy": "8a4b429ea65b5566",
    "reverse": "e1df806ec6485d50",
    "sort": "81617678e152f52b",
    "add": "9c0668d63088ee58",
    "recall": "b7c6dacfd0d5aa8e",
    "labels": "12ab178038d3c1b0",
    "cloze": "3115137e5da53314",
}


@pytest.mark.parametrize("name", NAMES)
def test_a_suite_is_the_same_everywhere_and_its_questions_differ(name):
    made = suite(name)
    assert made.digest.startswith(DIGESTS[name])
    assert len(set(made.questions)) == len(made.questions) == (72 if name == "labels" else 200)
    assert suite(name, 20, seed=1).digest != suite(name, 20).digest
    if made.kind == "choice":
        places = np.bincount([question.gold for question in made.questions])
        assert places.min() > 0.6 * len(made.questions) / len(
            places
        )  # no place is right more often than others


def test_the_answers_of_suites_are_right():
    right = {"copy": str, "reverse": lambda s: s[::-1], "sort": lambda s: "".join(sorted(s))}
    for name, change in right.items():
        for question in suite(name).questions:
            assert question.answers == (change(question.prompt[:-1]),)
            assert question.group == f"{len(question.prompt) - 1} letters"
    for question in suite("add").questions:
        a, b = question.prompt[:-1].split("+")
        assert question.answers == (str(int(a) + int(b)),)
    for question in suite("recall").questions:
        *pairs, key = question.prompt.split()
        values = {pair[0]: pair[1] for pair in pairs}
        assert question.target == values[key] and set(question.choices) <= set(values.values())
        assert question.group == f"distance {len(pairs) - list(values).index(key)}"
    text = numgpt.data.corpora.austen()
    for question in suite("cloze", 30).questions:
        assert f"{question.prompt} {question.target}" in text
        assert len({len(choice.encode()) for choice in question.choices}) == 1 == len({*question.choices}) / 4


def test_a_suite_that_cannot_be_is_an_error():
    for arguments, message in (
        (("cpoy",), "'cpoy' is unknown, expected .*did you mean.*copy"),
        (("labels", 73), "labels has some 72 different questions, expected 73 of them"),
        (("copy", 0), "questions is 0, expected 1 or more"),
    ):
        with pytest.raises(InputError, match=message):
            suite(*arguments)
    with pytest.raises(InputError, match="text is given, which copy is not made of"):
        suite("copy", text="a")
    with pytest.raises(InputError, match="the text has 0 passages of 200 characters"):
        suite("cloze", text="a b c")


# WikiText and LAMBADA.


def test_wikitext_by_two_protocols(tmp_path):
    page = " = A = \n \n b c , 1 @,@ 0 . \n = = E = = \n f g \n"
    model = random_model(Bytes(), block_size=16)
    (tmp_path / "wiki.raw").write_text(page * 2)
    found = wikitext(model, tmp_path / "wiki.raw")
    ids = model.tokenizer.encode(page * 2)
    assert found.strided == score(model, ids, 8)
    (first, _) = found.pages.suite.questions
    assert first.prompt == " = A =\n\nb c, 1,0.\n== E ==\nf g\n"
    nats = evaluate(model, Suite("t", [Question(first.prompt)])).details[0]["nats"]
    assert found.pages.estimate("word_perplexity").value == pytest.approx(
        math.exp(nats / (len(page.split()) + 2)), rel=1e-12
    )
    assert found.pages.estimate("byte_perplexity").value == pytest.approx(
        math.exp(nats / len(page)), rel=1e-12
    )
    few = wikitext(model, tmp_path / "wiki.raw", tokens=40)
    assert few.strided.tokens == 39 and len(few.pages.suite.questions) == 1
    (tmp_path / "wiki.raw").write_text("a b")
    with pytest.raises(InputError, match="wiki.raw: has no line such as ' = Title = '"):
        wikitext(model, tmp_path / "wiki.raw")


def test_lambada_is_the_last_word_of_each_passage(tmp_path):
    path = tmp_path / "lambada.jsonl"
    passages = ["a bad cab", "he fed a head", "cage bed"]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in passages))
    found = lambada(MODEL, path)
    split = [text.rpartition(" ") for text in passages]
    logp = [one_by_one(MODEL, MODEL.tokenizer.encode(t), len(w) + 1) for t, (_, _, w) in zip(passages, split)]
    assert found.loss.value == pytest.approx(-np.mean(logp), rel=1e-12)
    assert found.perplexity == pytest.approx(math.exp(-np.mean(logp)), rel=1e-12)
    assert lambada(MODEL, path, passages=2).passages == 2
    half = [
        (np.array([-1.0, -2.0]), np.array(right)) for right in ([True, False], [True, True], [False, False])
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(benchmarks, "surprises", lambda *given: half)
        assert lambada(MODEL, path).accuracy.value == pytest.approx(1 / 3)  # of each token of a word
    path.write_text('{"text": "a b"}\n{"text": "one"}\n')
    with pytest.raises(InputError, match="line 2: text is 'one', expected a passage of two words or more"):
        lambada(MODEL, path)
