"""What gives rewards: models and functions, and one line that names the prompt where they give none."""

import json

import numpy as np
import pytest

from numgpt import GPT, Config, Head, InputError, tuning
from numgpt.__main__ import main
from numgpt.data import (
    BARE,
    CHATML,
    PLAIN,
    Conversation,
    Message,
    Prompt,
    read_preferences,
    template_from_state,
)
from numgpt.tokenizers import Bytes, Characters
from numgpt.tuning import recipes

CONFIG = Config(vocab_size=256, block_size=48, n_layer=1, n_head=2, n_embd=8)


def prompt(text, place="p.jsonl, line 1", **fields):
    return Prompt(Conversation([Message("user", text)]), fields, place)


SUMS = [prompt(f"{n}+1=", f"p.jsonl, line {n}", answer=str(n + 1)) for n in range(1, 5)]


def judge(template=PLAIN, seed=3, **changes):
    """A reward model whose numbers spread."""
    model = GPT(CONFIG, seed=seed, tokenizer=Bytes()).extended(Head(task="reward"))
    model.params.flat[...] += 0.3 * np.random.default_rng(seed).standard_normal(model.n_params)
    model.template = template and template.state()
    for name, value in changes.items():
        setattr(model, name, value)
    return model


# Models.


@pytest.mark.parametrize("template", ["plain", "bare", "chatml"])
def test_a_reward_model_reads_what_it_was_trained_on(tmp_path, monkeypatch, template):
    """The texts of its pairs, from their file, get the numbers that their training saw."""
    monkeypatch.chdir(tmp_path)
    rows = [{"prompt": f"{n}?", "chosen": f"{n}!", "rejected": "no"} for n in range(8)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    GPT(CONFIG, seed=3, tokenizer=Bytes()).save(tmp_path / "base")
    words = f"tune reward base --data pairs.jsonl --steps 3 --lr 0.1 --template {template} --out judge"
    assert main(words.split()) == 0
    reward = tuning.reward_of("judge")
    state = json.loads((tmp_path / "judge/last/state.json").read_text())
    model = GPT.load("judge")
    seen = recipes.made("reward", model, recipes_training(state), state["recipe"]).objective
    texts = [side for pair in (*seen.pairs, *seen.held_out_pairs) for side in pair]
    expected = {tuple(ids.tolist()): n for ids, n in zip(texts, tuning.predictions(model, texts)[:, 0])}
    for pair in read_preferences("pairs.jsonl"):
        for (answer,) in (pair.chosen, pair.rejected):
            asked = Prompt(Conversation(pair.prompt))
            whole = Conversation((*pair.prompt, answer))
            ids = template_from_state(model.template).encode(whole, model.tokenizer).ids
            (number,) = reward([asked], [answer.text])
            assert number == pytest.approx(expected[tuple(ids.tolist())], abs=1e-6)


def recipes_training(state):
    from numgpt import Training

    return Training(**state["training"])


def test_the_end_of_a_response_is_read_too():
    model = judge()
    ids = PLAIN.encode(Conversation([Message("user", "1+1="), Message("assistant", "2")]), Bytes()).ids
    assert Bytes().decode(ids).endswith("2\n")
    (number,) = tuning.ModelReward(model)([prompt("1+1=")], ["2"])
    assert number == tuning.predictions(model, [ids])[0, 0]
    assert number != tuning.predictions(model, [ids[:-1]])[0, 0]


def test_a_number_does_not_depend_on_what_is_read_beside_it():
    answers = ["2", "three and a half", "", "4"]
    reward = tuning.ModelReward(judge())
    alone = [reward([p], [a])[0] for p, a in zip(SUMS, answers)]
    np.testing.assert_allclose(reward(SUMS, answers), alone, rtol=1e-5)
    few = tuning.ModelReward(judge(), batch_size=1)
    np.testing.assert_array_equal(few(SUMS, answers), alone)
    assert reward([], []).shape == (0,)


def test_what_was_said_before_is_read():
    before = [Message("user", "1+1="), Message("assistant", "2"), Message("user", "2+1=")]
    long, short = Prompt(Conversation(before)), Prompt(Conversation(before[2:]))
    numbers = tuning.ModelReward(judge())([long, short], ["3", "3"])
    assert numbers[0] != numbers[1]


def test_normalised_rewards_have_the_mean_0_and_the_variance_1():
    answers = ["2", "3", "x", "yes"]
    plain = tuning.ModelReward(judge(), shift=5.0, scale=7.0)
    reward = plain.normalised(SUMS, answers)
    numbers = reward(SUMS, answers)
    assert abs(numbers.mean()) < 1e-9 and abs(numbers.std() - 1) < 1e-9
    unit = tuning.ModelReward(judge())(SUMS, answers)
    np.testing.assert_allclose(numbers, (unit - unit.mean()) / unit.std(), rtol=1e-9)
    np.testing.assert_allclose(numbers * reward.scale + reward.shift, unit, rtol=1e-9)
    for given in (([], []), (SUMS[:1] * 3, ["2"] * 3)):
        with pytest.raises(InputError, match="^ModelReward: the rewards of . responses spread by"):
            plain.normalised(*given)


def test_a_template_may_be_given():
    own, other = (tuning.ModelReward(judge(), t)(SUMS[:1], ["2"]) for t in (None, BARE))
    assert own != other
    assert other == tuning.ModelReward(judge(BARE))(SUMS[:1], ["2"])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: tuning.ModelReward(GPT(CONFIG, tokenizer=Bytes())), "the model has no head, expected one"),
        (
            lambda: tuning.ModelReward(GPT(CONFIG).extended(Head(labels=("a", "b")))),
            "the model has a head for classes, expected one for reward",
        ),
        (lambda: tuning.ModelReward(judge(tokenizer=None)), "^ModelReward: the model has no tokenizer"),
        (lambda: tuning.ModelReward(judge(None)), "^ModelReward: the model keeps no template"),
        (lambda: tuning.ModelReward(judge(), scale=0.0), "ModelReward: scale is 0.0, expected"),
        (lambda: tuning.ModelReward(judge(CHATML))(SUMS[:1], ["2"]), "the tokenizer has no special token"),
        (
            lambda: tuning.ModelReward(judge())(SUMS[1:2], ["2" * 99]),
            "^p.jsonl, line 2: prompt and response have 122 tokens, expected at most the reward model's 48,"
            " for the prompt '2.1=', answered by '2{59}…'$",
        ),
        (
            lambda: tuning.ModelReward(judge(BARE, tokenizer=Characters("\n+12=")))(SUMS[:1], ["3"]),
            "^p.jsonl, line 1: .*'3'",
        ),
    ],
    ids=range(8),
)
def test_a_reward_model_that_cannot_be_used_is_refused(make, message):
    with pytest.raises(InputError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


# Functions.


def test_a_function_is_given_the_last_message_the_response_and_a_dict_of_the_fields():
    given = []

    def reward(prompt, response, fields):
        given.append((prompt, response, fields))
        fields["answer"] = "spoiled"
        return len(response)

    before = [Message("user", "x"), Message("assistant", "y"), Message("user", "1+1=")]
    asked = Prompt(Conversation(before), {"answer": "2"})
    numbers = tuning.FunctionReward(reward)([asked, asked], ["2", "  "])
    assert numbers.dtype == np.float64 and numbers.tolist() == [1.0, 2.0]
    assert [args[:2] for args in given] == [("1+1=", "2"), ("1+1=", "  ")]
    assert asked.fields == {"answer": "2"}


@pytest.mark.parametrize("value", [True, np.True_, 1, np.int8(1), 1.0, np.float32(1), np.ones(()), 10**0])
def test_a_number_of_any_kind_is_a_reward(value):
    assert tuning.FunctionReward(lambda *_: value)(SUMS[:1], ["x"]).tolist() == [1.0]


class Mute(Exception):
    def __str__(self):
        raise ValueError("no")


def raises(error):
    def reward(prompt, response, fields):
        raise error

    return reward


WRONG = [
    (lambda p, r, f: f["anwser"], r"<lambda> raised KeyError: 'anwser', expected a finite number"),
    (lambda p, r, f: 1 / 0, "raised ZeroDivisionError: division by zero"),
    (raises(ValueError("one\ntwo " + "x" * 99)), "reward raised ValueError: one two x{51}…, expected"),
    (raises(ValueError()), "reward raised ValueError, expected"),
    (raises(Mute()), "reward raised Mute, expected"),
    (raises(SystemExit(3)), "reward raised SystemExit: 3, expected"),
    (lambda p, r, f: float("nan"), "<lambda> gave nan, expected a finite number"),
    (lambda p, r, f: -np.inf, "gave -inf, expected"),
    (lambda p, r, f: None, "gave None, expected"),
    (lambda p, r, f: "1", "gave '1', expected"),
    (lambda p, r, f: 1j, "gave 1j, expected"),
    (lambda p, r, f: 10**400, "gave 1000000"),
    (lambda p, r, f: [1.0, 2.0], "gave something of type list, expected"),
    (lambda p, r, f: np.ones(1), "gave something of type ndarray, expected"),
]


@pytest.mark.parametrize(("function", "message"), WRONG, ids=range(len(WRONG)))
def test_a_function_that_gives_no_number_is_one_line_that_names_the_prompt(function, message):
    reward = tuning.FunctionReward(function)
    asked = prompt("what is\n" + "long " * 20, "p.jsonl, line 7")
    with pytest.raises(InputError, match=message) as caught:
        reward([asked], ["an\nanswer"])
    text = str(caught.value)
    assert text.startswith("p.jsonl, line 7: ") and "\n" not in text
    assert "for the prompt 'what is long" in text and text.endswith("…', answered by 'an answer'")
    assert len(text) < 300


def test_what_interrupts_is_no_error_of_the_function():
    with pytest.raises(KeyboardInterrupt):
        tuning.FunctionReward(raises(KeyboardInterrupt()))(SUMS[:1], ["x"])


def test_a_function_of_other_arguments_is_refused_before_it_is_used():
    with pytest.raises(InputError, match=r"^mine: takes \(a, b\), expected a function of \(prompt, resp"):
        tuning.FunctionReward(lambda a, b: 0, "mine")
    tuning.FunctionReward(lambda *args, **more: 0)
    assert tuning.FunctionReward(max).name == "max"


# Whatever gives rewards.


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([1.0] * 3, r"^reward: it gave float64 of shape \(3,\), expected numbers \(4,\), one for each resp"),
        (1.0, r"float64 of shape \(\), expected numbers \(4,\)"),
        (np.ones((4, 1)), r"float64 of shape \(4, 1\), expected"),
        (["a"] * 4, r"reward: it gave <U1 of shape \(4,\), expected"),
        (None, r"reward: it gave object of shape \(\), expected"),
        ([[1.0], [1.0, 2.0], [1.0], [1.0]], "^reward: what it gave: rows differ in length, expected numbers"),
        ([1.0, 2.0, np.nan, np.inf], r"^p.jsonl, line 3: the reward is nan, expected .* '3\+1=', answered"),
    ],
    ids=range(7),
)
def test_what_gives_no_number_for_each_response_is_refused(given, message):
    with pytest.raises(InputError, match=message):
        tuning.rewarded(lambda prompts, responses: given, SUMS, ["x"] * 4)


def test_rewards_of_any_numbers_are_float64():
    for given in ([1, 2, 3, 4], np.arange(1, 5, dtype=np.int8), np.arange(1, 5, dtype=np.float32)):
        numbers = tuning.rewarded(lambda prompts, responses, given=given: given, SUMS, ["x"] * 4)
        assert numbers.dtype == np.float64 and numbers.tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize("use", [tuning.ModelReward(judge()), tuning.FunctionReward(lambda p, r, f: 1), None])
def test_each_response_has_its_prompt(use):
    use = use or (lambda p, r: tuning.rewarded(lambda prompts, responses: [1], p, r))
    with pytest.raises(
        InputError, match="^reward: there are 4 prompts and 1 responses, expected a prompt for"
    ):
        use(SUMS, ["x"])


# By name.


def test_a_reward_is_found_by_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    judge().save("judge")
    (tmp_path / "mine.py").write_text(
        "def right(prompt, response, fields):\n    return response == 'x'\nn = 3\n"
    )
    function = tuning.reward_of("mine.py:right")
    assert isinstance(function, tuning.FunctionReward) and function.name == "mine.py:right"
    assert function(SUMS[:2], ["x", "y"]).tolist() == [1.0, 0.0]
    model = tuning.reward_of(tmp_path / "judge")
    np.testing.assert_array_equal(model(SUMS[:1], ["x"]), tuning.ModelReward(judge())(SUMS[:1], ["x"]))


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("mine.py:n", "^mine.py:n: is 3, expected a function that gives rewards"),
        ("mine.py:m", "^mine.py:m: there is no m, expected one of"),
        ("mine.py:two", r"^mine.py:two: takes \(a, b\), expected a function of"),
        ("bad.py:x", "^bad.py: importing it raised ZeroDivisionError"),
        ("none.py:x", "^none.py: does not exist, expected a Python file before :x"),
        ("nowhere", "nowhere: does not exist"),
        ("base", "the model has no head, expected one for reward"),
    ],
)
def test_a_name_that_leads_to_no_reward_is_refused_in_one_line(tmp_path, monkeypatch, place, message):
    monkeypatch.chdir(tmp_path)
    GPT(CONFIG, tokenizer=Bytes()).save("base")
    (tmp_path / "mine.py").write_text("n = 3\n\n\ndef two(a, b):\n    return 0\n")
    (tmp_path / "bad.py").write_text("1 / 0\n")
    with pytest.raises(InputError, match=message) as caught:
        tuning.reward_of(place)
    assert "\n" not in str(caught.value)
