"""Prompts from files: what comes out, and a line for each file that is wrong."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from numgpt import InputError, data

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter(str.strip)
HI = {"role": "user", "content": "hi"}
HELLO = {"role": "assistant", "content": "hello"}
THEIRS = [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}]


def written(folder, text, name="prompts.jsonl"):
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def lines(*values):
    return "".join(f"{json.dumps(value)}\n" for value in values)


@pytest.mark.parametrize(
    ("row", "fields"),
    [
        ({"prompt": "hi"}, {}),
        ({"prompt": [HI], "answer": [1, {"a": None}]}, {"answer": [1, {"a": None}]}),
        ({"prompt": "hi", "completion": "hello"}, {"completion": "hello"}),
        ({"prompt": "hi", "messages": [HI, HELLO]}, {"messages": [HI, HELLO]}),
        ({"messages": [HI], "id": 3}, {"id": 3}),
        ({"messages": [HI, HELLO]}, {"response": "hello"}),
        ({"messages": [HI, HELLO], "response": 5}, {"response": 5}),
        ({"conversations": THEIRS[:1]}, {}),
        ({"conversations": THEIRS, "answer": "x"}, {"answer": "x", "response": "hello"}),
        ({"instruction": "hi"}, {}),
        ({"instruction": "hi", "input": "", "output": "hello"}, {"output": "hello"}),
    ],
    ids=range(11),
)
def test_a_prompt_is_the_same_in_each_form_and_all_else_of_its_row_is_kept(tmp_path, row, fields):
    (prompt,) = data.read_prompts(written(tmp_path, lines(row)))
    assert prompt == data.Prompt(data.Conversation([data.Message("user", "hi")]), fields)
    assert prompt.text == "hi"
    assert prompt.place == prompt.conversation.place == f"{tmp_path / 'prompts.jsonl'}, line 1"


def test_what_was_said_before_stays_before_the_last_message(tmp_path):
    row = {"messages": [{"role": "system", "content": "be brief"}, HI, HELLO, HI | {"content": "sure?"}]}
    (prompt,) = data.read_prompts(written(tmp_path, lines(row)))
    assert [m.text for m in prompt.conversation.messages] == ["be brief", "hi", "hello", "sure?"]
    assert (prompt.text, prompt.fields) == ("sure?", {})


def test_an_input_stands_below_its_instruction_as_in_conversations(tmp_path):
    row = {"instruction": "Add.", "input": "1 2", "output": "3"}
    path = written(tmp_path, lines(row))
    (prompt,), (conversation,) = data.read_prompts(path), data.read_conversations(path)
    assert prompt.conversation.messages == conversation.messages[:1]


@given(st.lists(TEXTS, min_size=1, max_size=4), st.booleans(), st.data())
def test_what_is_written_is_read_from_lines_of_json_and_of_text(tmp_path_factory, texts, as_json, draw):
    """With blank lines, and with line ends and a byte order mark as Windows writes them."""
    texts = [text.replace("\r", " ").replace("\n", " ") or "x" for text in texts]
    texts = ["".join(text.split("\ufeff")).strip() or "x" for text in texts]
    text = "\n\n".join(json.dumps({"prompt": text}) if as_json else text for text in texts)
    if draw.draw(st.booleans()):
        text = "\ufeff" + text.replace("\n", "\r\n")
    path = written(tmp_path_factory.mktemp("forms"), text, "p.jsonl" if as_json else "p.TXT")
    read = data.read_prompts(path)
    assert [prompt.text for prompt in read] == texts
    assert [prompt.place for prompt in read] == [f"{path}, line {2 * n + 1}" for n in range(len(texts))]


def test_a_text_is_no_json_and_keeps_the_spaces_of_its_lines(tmp_path):
    text = ' {"prompt": "hi"} \n \n[1]\n'
    read = data.read_prompts(written(tmp_path, text, "p.txt"))
    assert [prompt.text for prompt in read] == [' {"prompt": "hi"} ', "[1]"]
    (other,) = data.read_prompts(written(tmp_path, '{"prompt": "hi"}', "p.text"))
    assert other.text == "hi"


BAD = [
    ("", "is empty, expected prompts as JSON or as the lines of a .txt file"),
    ("hi\n", r"line 1: is not JSON .*, expected prompts"),
    ("[1]", "entry 1: is 1, expected an object"),
    (lines({}), "line 1: has no names, expected prompt, messages, conversations or instruction"),
    (lines({"question": "x"}), "line 1: has 'question', expected prompt, messages"),
    ("\n" + lines({"prompt": 3}), "line 2: prompt is 3, expected a list of messages"),
    (lines({"prompt": ""}), "line 1: the user says nothing, expected a text to be answered"),
    (lines({"prompt": " \t"}), "line 1: the user says nothing"),
    (lines({"prompt": []}), "line 1: has no messages, expected some, the user's last"),
    (lines({"messages": []}), "line 1: has no messages, expected some"),
    (lines({"prompt": [HI, HELLO]}), "line 1: the last message is of the assistant, expected one of the us"),
    (lines({"messages": [HELLO]}), "line 1: the last message is of the assistant"),
    (lines({"messages": [HI, HELLO, HELLO]}), "line 1: the last message is of the assistant"),
    (lines({"messages": [{"role": "system", "content": "x"}]}), "line 1: the last message is of the system"),
    (lines({"messages": "hi"}), "line 1: messages is 'hi', expected a list of messages such as"),
    (lines({"messages": [{"role": "bot", "content": "x"}]}), "message 1 of messages has the role 'bot'"),
    (lines({"conversations": [HI]}), 'message 1 of conversations is .*"from"'),
    (lines({"instruction": 3}), "line 1: instruction is 3, expected a text"),
    (lines({"instruction": "x", "input": 3}), "line 1: input is 3, expected a text"),
    ('{"prompt": "x", "answer": NaN}', "line 1: is not JSON"),
    (b'{"prompt": "\xff"}', "is not UTF-8"),
    ('{"prompt": "x"}'.encode("utf-16"), "is UTF-16"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), BAD, ids=range(len(BAD)))
def test_a_wrong_file_of_prompts_is_one_line_that_names_its_place(tmp_path, text, message):
    path = written(tmp_path, text)
    with pytest.raises(InputError, match=message) as caught:
        data.read_prompts(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", " \n\n", b"\xff\n", "x".encode("utf-16")])
def test_a_wrong_text_is_one_line_that_names_it(tmp_path, text):
    path = written(tmp_path, text, "p.txt")
    with pytest.raises(InputError, match="p.txt") as caught:
        data.read_prompts(path)
    assert "\n" not in str(caught.value)


@given(st.data())
def test_any_damage_to_a_file_is_read_or_refused_in_one_line(tmp_path_factory, draw):
    row = {"prompt": [HI], "answer": 3}
    content = lines(row, {"messages": [HI, HELLO]}, {"instruction": "x", "input": "y"}).encode()
    at = draw.draw(st.integers(0, len(content)))
    until = draw.draw(st.integers(at, min(at + 4, len(content))))
    path = tmp_path_factory.mktemp("damaged") / draw.draw(st.sampled_from(["p.jsonl", "p.txt"]))
    path.write_bytes(content[:at] + draw.draw(st.binary(max_size=4)) + content[until:])
    try:
        assert all(prompt.text.strip() for prompt in data.read_prompts(path))
    except InputError as error:
        assert str(path) in str(error) and "\n" not in str(error)


SAID = data.Conversation([data.Message("user", "hi")], "x.jsonl, line 2")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: data.Prompt("hi"), "^Prompt: conversation is 'hi', expected a"),
        (lambda: data.Prompt(SAID, 3), "^Prompt: fields is 3, expected a mapping"),
        (lambda: data.Prompt(SAID, place=3), "^Prompt: place is 3, expected a string"),
        (
            lambda: data.Prompt(data.Conversation([data.Message("user", "")])),
            "^conversation: the user says n",
        ),
        (lambda: data.read_prompts([]), "there are no files, expected prompts"),
        (lambda: data.read_prompts("nowhere"), "nowhere: does not exist, expected prompts"),
    ],
    ids=range(6),
)
def test_what_is_made_by_hand_is_held_to_the_same(make, message):
    with pytest.raises(InputError, match=message):
        make()
    assert data.Prompt(SAID).place == "x.jsonl, line 2"
