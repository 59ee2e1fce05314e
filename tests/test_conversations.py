"""Conversations, preferences and tasks from files: what comes out, and a line for each file that is wrong."""

import csv
import io
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from numgpt import InputError, data
from numgpt.data import conversations, rows

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter(str.strip)
HI = {"role": "user", "content": "hi"}
HELLO = {"role": "assistant", "content": "hello"}


def written(folder, text, name="data.jsonl"):
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def lines(*values):
    return "".join(f"{json.dumps(value)}\n" for value in values)


def said(conversation):
    return [(message.role, message.text) for message in conversation.messages]


# Conversations.


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"messages": [{"role": "system", "content": "be brief"}, HI, HELLO]}, "system user assistant"),
        ({"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}]}, None),
        ({"prompt": "hi", "completion": "hello"}, None),
        ({"prompt": [HI], "completion": [HELLO], "score": 3}, None),
        ({"instruction": "hi", "input": "", "output": "hello", "text": "all of it"}, None),
        ({"instruction": "hi", "output": "hello", "input": None}, None),
        ({"messages": [HI, {"role": "assistant", "content": "hello", "tool_calls": []}]}, None),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}, HELLO]}, None),
    ],
)
def test_each_form_is_known_by_its_fields(tmp_path, row, expected):
    (conversation,) = data.read_conversations(written(tmp_path, lines(row)))
    if expected:
        assert [message.role for message in conversation.messages] == expected.split()
    assert said(conversation)[-2:] == [("user", "hi"), ("assistant", "hello")]
    assert conversation.place.endswith("data.jsonl, line 1")


@given(
    st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=4), st.sampled_from(["lines", "array"]), st.data()
)
def test_what_is_written_is_read_in_every_form(tmp_path_factory, turns, form, draw):
    """With blank lines, and with line ends and a byte order mark as Windows writes them."""
    values = [{"messages": [HI | {"content": a}, HELLO | {"content": b}]} for a, b in turns]
    ascii_only = draw.draw(st.booleans())
    dumped = [json.dumps(value, ensure_ascii=ascii_only) for value in values]
    text = "\n\n".join(dumped) if form == "lines" else f" [{','.join(dumped)}\n]"
    if draw.draw(st.booleans()):
        text = "\ufeff" + text.replace("\n", "\r\n")
    path = written(tmp_path_factory.mktemp("forms"), text)
    read = data.read_conversations(path)
    assert [said(c) for c in read] == [[("user", a), ("assistant", b)] for a, b in turns]
    places = [f"line {2 * n + 1}" if form == "lines" else f"entry {n + 1}" for n in range(len(turns))]
    assert [c.place for c in read] == [f"{path}, {place}" for place in places]


def test_lines_are_counted_wherever_a_file_is_cut_in_parts(tmp_path, monkeypatch):
    path = written(
        tmp_path, lines({"prompt": "é" * 9, "completion": "x"}, {"prompt": "a", "completion": "b"})
    )
    whole = data.read_conversations(path)
    for part in (1, 2, 7):
        monkeypatch.setattr("numgpt.data.text.PART", part)
        again = data.read_conversations(path)
        assert again == whole and [c.place for c in again] == [c.place for c in whole]


def test_several_files_are_read_in_their_order(tmp_path):
    paths = [
        written(tmp_path, lines({"prompt": name, "completion": "x"}), f"{name}.jsonl") for name in ("b", "a")
    ]
    assert [c.messages[0].text for c in data.read_conversations(paths)] == ["b", "a"]


def test_alpacas_fields_are_worded_as_published_or_joined(tmp_path):
    row = {"instruction": "Add {input}.", "input": "1 {instruction}", "output": "2"}
    path = written(tmp_path, lines(row, row | {"input": ""}))
    joined = [c.messages[0].text for c in data.read_conversations(path)]
    assert joined == ["Add {input}.\n\n1 {instruction}", "Add {input}."]
    both, alone = (c.messages[0].text for c in data.read_conversations(path, wording="alpaca"))
    assert both.startswith(
        "Below is an instruction that describes a task, paired with an input that provides"
    )
    assert both.endswith("### Instruction:\nAdd {input}.\n\n### Input:\n1 {instruction}\n\n### Response:")
    assert alone.endswith("### Instruction:\nAdd {input}.\n\n### Response:") and "Input" not in alone
    mine = data.Wording("Q: {instruction} {}", "{input}: {instruction}")
    assert [c.messages[0].text for c in data.read_conversations(path, wording=mine)] == [
        "1 {instruction}: Add {input}.",
        "Q: Add {input}. {}",
    ]


BAD_CONVERSATIONS = [
    ("", "is empty, expected conversations"),
    (" \n\n", "is empty, expected conversations"),
    ("{", r"line 1: is not JSON \(.*\), expected conversations as JSON, an object a line"),
    ("\n\n[1]", "entry 1: is 1, expected an object"),
    ("[{}, 2", r"is not JSON \(.*\), expected conversations"),
    (lines({}), "line 1: has no names, expected messages, conversations, prompt with completion"),
    (lines({"message": []}), "line 1: has 'message', expected messages"),
    ("\n" + lines(3), "line 2: is 3, expected an object"),
    (lines({"messages": "hi"}), "line 1: messages is 'hi', expected a list of messages such as"),
    (lines({"messages": []}), "line 1: has no messages"),
    (lines({"messages": [HI]}), "line 1: has no response, expected a message of the assistant: leave"),
    (lines({"messages": [HI, "hello"]}), "line 1: message 2 of messages is 'hello', expected"),
    (lines({"messages": [{"role": "bot", "content": "x"}]}), "message 1 of messages has the role 'bot', exp"),
    (lines({"messages": [{"role": ["user"], "content": "x"}]}), r"has the role \['user'\], expected one of"),
    (lines({"messages": [{"role": "user", "content": None}]}), "holds None, expected a text"),
    (lines({"messages": [{"role": "user", "content": [{"type": "image"}]}]}), "holds .*image.*, expected"),
    (lines({"messages": [HI, HELLO | {"content": " "}]}), "line 1: message 2 is an empty response, expected"),
    (lines({"messages": [HI, HELLO | {"weight": 0}]}), "message 2 of messages has the weight 0, expected 1"),
    (lines({"messages": [HI, HELLO | {"tool_calls": [1]}]}), "has tool_calls, expected texts alone"),
    (lines({"conversations": [{"role": "user", "content": "x"}]}), 'message 1 of conv.* is .*"from"'),
    (lines({"instruction": 3, "output": "x"}), "line 1: instruction is 3, expected a text"),
    (lines({"instruction": "x", "output": None}), "line 1: output is None, expected a text"),
    (lines({"instruction": "x", "input": 1, "output": "x"}), "line 1: input is 1, expected a text"),
    (lines({"prompt": "x", "completion": 2}), "line 1: completion is 2, expected a list of messages"),
    ('{"prompt": "x", "completion": "\\ud800"}', r"line 1: is not JSON \(U\+D800 is half of a character"),
    ('{"prompt": "x", "prompt": "y", "completion": "z"}', "line 1: is not JSON .*'prompt' occurs twice"),
    (b'{"prompt": "\xff", "completion": "z"}', "is not UTF-8"),
    ('{"prompt": "x"}'.encode("utf-16"), "is UTF-16"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), BAD_CONVERSATIONS, ids=range(len(BAD_CONVERSATIONS)))
def test_a_wrong_file_of_conversations_is_one_line_that_names_its_place(tmp_path, text, message):
    path = written(tmp_path, text)
    with pytest.raises(InputError, match=message) as caught:
        data.read_conversations(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_line_and_an_array_without_end_are_refused_before_they_fill_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "LONGEST_JSON", 100)
    monkeypatch.setattr(rows, "LONGEST_ARRAY", 200)
    monkeypatch.setattr("numgpt.data.text.PART", 64)
    row = {"prompt": "x" * 200, "completion": "y"}
    with pytest.raises(InputError, match="line 2: has more than 100 characters"):
        data.read_conversations(written(tmp_path, '{"prompt": "x", "completion": "y"}\n' + lines(row)))
    with pytest.raises(InputError, match="is an array of more than 200 characters.*an object a line"):
        data.read_conversations(written(tmp_path, json.dumps([row])))


def test_what_is_no_file_is_refused(tmp_path):
    with pytest.raises(InputError, match="does not exist, expected conversations"):
        data.read_conversations(tmp_path / "none.jsonl")
    with pytest.raises(InputError, match="is a folder, expected conversations"):
        data.read_conversations(tmp_path)
    with pytest.raises(InputError, match="there are no files, expected conversations"):
        data.read_conversations([])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: data.Message("bot", "x"), "^Message: role is 'bot', expected one of system, user"),
        (lambda: data.Message("user", 3), "^Message: text is 3, expected a string"),
        (lambda: data.Conversation([]), "^conversation: has no message"),
        (lambda: data.Conversation([], "x.jsonl, line 2"), "^x.jsonl, line 2: has no message"),
        (lambda: data.Conversation([("user", "x")]), "^Conversation: messages is .*, expected a sequence of"),
        (
            lambda: data.read_conversations("x", wording="none"),
            "wording is 'none', expected joined or alpaca",
        ),
        (
            lambda: data.read_conversations("x", wording=data.Wording("x", "y")),
            "^Wording: alone is 'x', expe",
        ),
    ],
)
def test_what_is_made_by_hand_is_held_to_the_same(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_every_alias_is_a_role():
    assert set(conversations.ALIASES.values()) <= set(conversations.ROLES)


# Preferences.


def answers(preference):
    return preference.chosen[-1].text, preference.rejected[-1].text


NO = {"role": "assistant", "content": "no"}


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "hi", "chosen": "hello", "rejected": "no"},
        {"prompt": [HI], "chosen": [HELLO], "rejected": [NO], "score_chosen": 7.0},
        {"chosen": [HI, HELLO], "rejected": [HI, NO]},
        {"prompt": "hi", "chosen": [HI, HELLO], "rejected": [HI, NO]},
        {"prompt": "hi", "ranked": ["hello", "no"]},
        {"prompt": [HI], "ranked": [[HELLO], [HI, NO]]},
    ],
)
def test_a_preference_is_the_same_in_each_of_its_forms(tmp_path, row):
    (preference,) = data.read_preferences(written(tmp_path, lines(row)))
    hi, hello, no = data.Message("user", "hi"), *(data.Message("assistant", t) for t in ("hello", "no"))
    assert preference == data.Preference([hi], [hello], [no])
    assert preference.sides == (data.Conversation([hi, hello]), data.Conversation([hi, no]))


def test_the_prompt_of_two_conversations_is_what_both_begin_with(tmp_path):
    begin = [{"role": "system", "content": "be kind"}, HI, NO, HI | {"content": "sure?"}]
    path = written(tmp_path, lines({"chosen": [*begin, HELLO], "rejected": [*begin, NO, HI, NO]}))
    (preference,) = data.read_preferences(path)
    assert [m.text for m in preference.prompt] == ["be kind", "hi", "no", "sure?"]
    assert [m.text for m in preference.chosen] == ["hello"]
    assert [m.text for m in preference.rejected] == ["no", "hi", "no"]


def test_sides_without_a_prompt_are_whole_texts(tmp_path):
    (preference,) = data.read_preferences(written(tmp_path, lines({"chosen": "a b", "rejected": "a c"})))
    assert preference.prompt == () and answers(preference) == ("a b", "a c")


@given(st.lists(TEXTS, min_size=2, max_size=6, unique=True))
def test_a_ranking_is_all_its_pairs_the_better_one_chosen(tmp_path_factory, ranked):
    path = written(tmp_path_factory.mktemp("ranked"), lines({"prompt": "p", "ranked": ranked}))
    pairs = [answers(preference) for preference in data.read_preferences(path)]
    assert len(pairs) == len(set(pairs)) == len(ranked) * (len(ranked) - 1) // 2
    assert all(ranked.index(better) < ranked.index(worse) for better, worse in pairs)


PAIR = {"prompt": "hi", "chosen": "a", "rejected": "b"}
BAD_PREFERENCES = [
    (PAIR | {"rejected": "a"}, "line 1: chosen and rejected are equal, expected different responses: leave"),
    ({"prompt": "hi", "ranked": ["a", "b", "a"]}, "line 1: responses 1 and 3 of ranked are equal"),
    ({"prompt": "hi", "ranked": ["a"]}, "line 1: ranked is no list of two or more"),
    ({"prompt": "hi", "ranked": "ab"}, "line 1: ranked is no list of two or more"),
    ({"ranked": ["a", "b"]}, "line 1: a ranking has no prompt"),
    ({"prompt": "hi", "chosen": "a"}, "line 1: has 'prompt', 'chosen', expected prompt, chosen and"),
    (PAIR | {"ranked": ["a", "b"]}, "line 1: has .*, expected prompt, chosen and rejected, or prom"),
    (PAIR | {"chosen": " "}, "line 1: chosen is empty, expected a response"),
    (PAIR | {"chosen": 3}, "line 1: chosen is 3, expected a list of messages"),
    (PAIR | {"chosen": [HI]}, "line 1: in chosen nobody speaks behind the prompt, expected the assistant"),
    (PAIR | {"chosen": [HELLO, HI]}, "line 1: in chosen assistant, user speaks behind the prompt"),
    ({"chosen": [HI, HELLO], "rejected": [HI | {"content": "ho"}, NO]}, "in chosen user, assistant speaks"),
    ({"chosen": [HI, HELLO], "rejected": [HI, HELLO]}, "line 1: in chosen nobody speaks|are equal"),
    ({"chosen": [{"role": "x", "content": "y"}], "rejected": "b"}, "message 1 of chosen has the role 'x'"),
]  # fmt: skip


@pytest.mark.parametrize(("row", "message"), BAD_PREFERENCES, ids=range(len(BAD_PREFERENCES)))
def test_a_wrong_preference_is_one_line_that_names_its_place(tmp_path, row, message):
    path = written(tmp_path, lines(row))
    with pytest.raises(InputError, match=message) as caught:
        data.read_preferences(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


# Verdicts.


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "hi", "completion": "hello", "label": True},
        {"prompt": [HI], "completion": [HELLO], "label": True, "more": 1},
    ],
)
def test_a_verdict_is_the_same_in_each_of_its_forms(tmp_path, row):
    (verdict,) = data.read_verdicts(written(tmp_path, lines(row)))
    hi, hello = data.Message("user", "hi"), data.Message("assistant", "hello")
    assert verdict == data.Verdict([hi], [hello], True)
    assert verdict.conversation == data.Conversation([hi, hello])
    (verdict,) = data.read_verdicts(written(tmp_path, lines(row | {"label": False})))
    assert verdict == data.Verdict([hi], [hello], False)


def test_a_pair_is_a_good_response_and_a_bad_one(tmp_path):
    verdicts = data.read_verdicts(written(tmp_path, lines(PAIR)))
    assert [(v.response[0].text, v.is_good) for v in verdicts] == [("a", True), ("b", False)]


VERDICT = {"prompt": "hi", "completion": "a", "label": True}
BAD_VERDICTS = [
    (VERDICT | {"label": 1}, "line 1: label is 1, expected true or false"),
    (VERDICT | {"label": "true"}, "line 1: label is 'true', expected true or false"),
    ({"prompt": "hi", "completion": "a"}, "line 1: has 'prompt', 'completion', expected prompt, comp"),
    ({"prompt": "hi", "ranked": ["a", "b"]}, "line 1: has 'prompt', 'ranked', expected prompt, compl"),
    (VERDICT | {"completion": " "}, "line 1: the response is empty, expected a text"),
    (VERDICT | {"completion": [HI]}, "line 1: user speaks behind the prompt, expected the assistant"),
    (VERDICT | {"completion": []}, "line 1: nobody speaks behind the prompt"),
    (PAIR | {"ranked": ["a", "b"]}, "line 1: has .*, expected prompt, chosen and rejected, or prom"),
    (PAIR | {"rejected": "a"}, "line 1: chosen and rejected are equal"),
]  # fmt: skip


@pytest.mark.parametrize(("row", "message"), BAD_VERDICTS, ids=range(len(BAD_VERDICTS)))
def test_a_wrong_verdict_is_one_line_that_names_its_place(tmp_path, row, message):
    path = written(tmp_path, lines(row))
    with pytest.raises(InputError, match=message) as caught:
        data.read_verdicts(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


# Tasks.

FIELDS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r"), min_size=1, max_size=12)


@given(
    st.lists(st.tuples(FIELDS.filter(str.strip), st.sampled_from("yes no maybe".split())), min_size=2),
    st.sampled_from(["csv", "tsv", "jsonl"]),
)
def test_a_task_that_is_written_is_read(tmp_path_factory, pairs, kind):
    """A table's fields may hold commas, quotes and line breaks; each label is a place in classes."""
    pairs = [*pairs, ("x", "yes"), ("y", "no")]
    file = io.StringIO()
    if kind == "jsonl":
        file.write(lines(*({"text": text, "label": label} for text, label in pairs)))
    else:
        writer = csv.writer(file, delimiter=rows.TABLES[f".{kind}"], quoting=csv.QUOTE_ALL)
        writer.writerows([("text", "label"), *pairs])
    task = data.read_task(written(tmp_path_factory.mktemp("task"), file.getvalue(), f"task.{kind}"))
    assert list(task.classes) == sorted({label for _, label in pairs})
    assert [(t, task.classes[n]) for t, n in zip(task.texts, task.labels)] == pairs
    assert len(task.places) == len(pairs)


def test_places_count_the_lines_of_a_field_that_has_several(tmp_path):
    path = written(tmp_path, 'label,text\nx,"a\nb"\n\ny,c\n', "t.csv")
    assert [place.rpartition(" ")[2] for place in data.read_task(path).places] == ["2", "5"]


def test_classes_that_are_integers_are_sorted_by_value(tmp_path):
    path = written(tmp_path, lines(*({"text": "x", "label": n} for n in (10, 9, 0, -1))))
    assert data.read_task(path).classes == ("-1", "0", "9", "10")
    truths = written(tmp_path, lines({"text": "x", "label": True}, {"text": "y", "label": False}))
    assert data.read_task(truths).classes == ("false", "true")


def test_classes_that_a_model_knows_keep_their_order(tmp_path):
    path = written(tmp_path, "text,label\nx,b\ny,b\n", "t.csv")
    task = data.read_task(path, classes=["b", "a"])
    assert task.classes == ("b", "a") and task.labels.tolist() == [0, 0]


def test_numbers_are_floats(tmp_path):
    path = written(tmp_path, "review,stars\nx,1.5\ny, -2e1\n", "t.csv")
    task = data.read_task(path, text="review", label="stars", numbers=True)
    assert task.classes is None and task.labels.tolist() == [1.5, -20.0]
    assert task.labels.dtype == np.float64


BAD_TASKS = [
    ("text,label\n", {}, "holds no rows, expected some below the header"),
    ("text,label\nx,a\ny\n", {}, "line 3: has 1 fields, expected 2 as the header has"),
    ("text,label\nx,a,b\n", {}, "line 2: has 3 fields, expected 2"),
    ("text,text\nx,a\n", {}, "line 1: 'text' names two columns"),
    ("text,\nx,a\n", {}, "line 1: a column has no name"),
    ('text,label\n"x,a\n', {}, r"line 2: is no row of a table \(unexpected end of data\)"),
    ('text,label\n"x"y,a\n', {}, "line 2: is no row of a table"),
    ("texts,label\nx,a\n", {}, r"line 2: the columns are 'texts', 'label', expected 'text' .*\(did you"),
    ("text,label\nx,a\ny,a\n", {}, "label is 'a' in all 2 rows, expected two classes or more"),
    ("text,label\n ,a\n", {}, "line 2: text is ' ', expected a text that is not empty"),
    ("text,label\nx,\n", {}, "line 2: label is '', expected the name of a class"),
    ("text,label\nx,c\n", {"classes": ["a", "b"]}, "line 2: label is 'c', expected one of 'a', 'b'"),
    ("text,label\nx,good\n", {"numbers": True}, "line 2: label is 'good', expected a finite number"),
    ("text,label\nx,nan\n", {"numbers": True}, "line 2: label is 'nan', expected a finite number"),
    ("text,label\nx,1_0\n", {"numbers": True}, "line 2: label is '1_0', expected a finite number"),
    (lines({"text": "x", "label": 0.5}), {}, "line 1: label is 0.5, expected the name of a.*numbers=True"),
    (lines({"text": 3, "label": 1}), {}, "line 1: text is 3, expected a text"),
    (lines({"text": "x", "label": True}), {"numbers": True}, "line 1: label is True, expected a finite"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "options", "message"), BAD_TASKS, ids=range(len(BAD_TASKS)))
def test_a_wrong_task_is_one_line_that_names_its_place(tmp_path, text, options, message):
    path = written(tmp_path, text, "task")
    with pytest.raises(InputError, match=message) as caught:
        data.read_task(path, **options)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_settings_of_a_task_that_contradict_each_other_are_refused():
    with pytest.raises(InputError, match="classes are given where labels are numbers"):
        data.read_task("x", numbers=True, classes=["a"])
    with pytest.raises(InputError, match="text and label are both 'a'"):
        data.read_task("x", text="a", label="a")
