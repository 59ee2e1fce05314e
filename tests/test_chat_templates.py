"""Chat templates: the tokens that a conversation becomes, and which of them the assistant writes."""

import dataclasses
import importlib.util
import json
import pickle
import string
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pipeline_samples import MARK, PREPEND, replace, sequence
from tokenizer_samples import learned, scored

from numgpt import GPT, InputError, data, tokenizers
from numgpt.data import Conversation, Message, jinja_templates
from numgpt.data.chat_templates import TEMPLATES
from numgpt.tokenizers import Bytes, Characters, Pipeline, with_specials

SPECIALS = sorted({text for template in TEMPLATES.values() for text in template.specials})
LETTERS = f"\n {string.ascii_letters}{string.digits}+=<|>_:."
PIECES = ["<s>", *(f"<0x{b:02X}>" for b in range(256)), MARK, *"abs", f"{MARK}a"]
STRIP = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
SPACES = replace(MARK, " ") | {"pattern": {"String": MARK}}
LLAMA2 = {
    "normalizer": sequence("normalizers", PREPEND, replace(" ", MARK)),
    "model": {
        "type": "BPE",
        "byte_fallback": True,
        "vocab": {text: i for i, text in enumerate(PIECES)},
        "merges": [[MARK, "a"]],
    },
    "decoder": sequence("decoders", SPACES, {"type": "ByteFallback"}, {"type": "Fuse"}, STRIP),
    "added_tokens": [{"id": 0, "content": "<s>", "special": True}],
}
TOKENIZERS = {
    "bytes": Bytes(),
    "characters": Characters.build(LETTERS),
    "byte pairs": learned(3, merges=150, pattern="cl100k", specials=["<|endoftext|>"]),
    "a Pipeline that puts a space before each text": Pipeline(LLAMA2),
    "llama2.c's": scored("User:\nab 1+1=<|im_end|>\nAssistant:\n" * 3),
}
PROMPTED = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
JINJA = {  # as published
    "chatml": "{% for message in messages %}"
    "{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}{% endfor %}"
    + PROMPTED,
    "llama": "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content ="
    " '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim +"
    " '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}"
    "{{ content }}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}",
}
MARKED = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}"
    "{% else %}{{ m.content }}<|im_end|>{% endif %}{{ '\n' }}{% endfor %}" + PROMPTED
)
TOKENS = {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"}
FEW = settings(max_examples=15)  # there are many pairs of a template and a tokenizer
needs_jinja = pytest.mark.skipif(not importlib.util.find_spec("jinja2"), reason="jinja2 is not installed")

# Texts that spell out special tokens, whole or in parts, among others.
TEXTS = st.lists(
    st.sampled_from([*SPECIALS, "<|", "|>", "<", " ", "a", "b", "1+", "=", "im_end"]), min_size=1, max_size=5
).map("".join)
TURNS = st.lists(st.tuples(st.sampled_from(["system", "user", "tool"]), TEXTS, TEXTS), min_size=1, max_size=3)


def conversation_of(turns):
    return Conversation([m for role, a, b in turns for m in (Message(role, a), Message("assistant", b))])


def said(tokenizer, example):
    """The texts of the runs of response tokens."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], example.is_response.astype(int), [0]])))
    return [tokenizer.decode(example.ids[a:b]) for a, b in edges.reshape(-1, 2)]


def with_all(name, kind):
    """A template, and a tokenizer that has its special tokens; None where it cannot."""
    template = TEMPLATES.get(name) or data.JinjaTemplate(
        JINJA.get(name.partition(" ")[0], MARKED), TOKENS, name
    )
    tokenizer = TOKENIZERS[kind]
    if template.specials or not isinstance(template, data.ChatTemplate):
        if kind == "llama2.c's":
            pytest.skip("has no room for special tokens")
        tokenizer = with_specials(tokenizer, SPECIALS)
    return template, tokenizer


NAMES = [*TEMPLATES, *(pytest.param(f"{name} of Jinja", marks=needs_jinja) for name in (*JINJA, "marked"))]
pairs = pytest.mark.parametrize("kind", TOKENIZERS), pytest.mark.parametrize("name", NAMES)


def each(law):
    for mark in pairs:
        law = mark(law)
    return law


# Laws.


@each
@FEW
@given(turns=TURNS)
def test_the_tokens_are_the_texts_and_what_the_assistant_writes_is_its_texts_and_their_ends(
    name, kind, turns
):
    template, tokenizer = with_all(name, kind)
    conversation = conversation_of(turns)
    example = template.encode(conversation, tokenizer)
    end = template.end_for(tokenizer)
    trims = getattr(template, "trim", "llama" in name)
    texts = [m.text.strip() if trims else m.text for m in conversation.messages if m.role == "assistant"]
    assert example.ids.shape == example.is_response.shape and example.is_response.dtype == bool
    if kind in ("bytes", "characters", "byte pairs"):  # others have a space before each text
        assert said(tokenizer, example) == [text + end.text for text in texts]
        for message in conversation.messages:
            assert (message.text.strip() if trims else message.text) in tokenizer.decode(example.ids)
    else:
        assert [t.strip() for t in said(tokenizer, example)] == [(t + end.text).strip() for t in texts]
    if end.id is not None:
        assert (example.ids[example.is_response] == end.id).sum() == len(texts), "each end is in the mask"


@each
@FEW
@given(turns=TURNS)
def test_a_prompt_is_what_the_whole_begins_with_up_to_the_response(name, kind, turns):
    template, tokenizer = with_all(name, kind)
    whole = conversation_of(turns)
    example = template.encode(whole, tokenizer)
    starts = np.flatnonzero(np.diff(np.concatenate([[0], example.is_response.astype(int)])) == 1)
    responses = [n for n, m in enumerate(whole.messages) if m.role == "assistant"]
    for n, start in zip(responses, starts, strict=True):
        ids = template.encode_prompt(Conversation(whole.messages[:n]), tokenizer)
        assert ids.tolist() == example.ids[:start].tolist()


@each
@FEW
@given(turns=TURNS)
def test_no_text_becomes_a_special_token(name, kind, turns):
    """As many of each as with texts that spell none."""
    template, tokenizer = with_all(name, kind)
    harmless = conversation_of([(role, "a", "b") for role, _, _ in turns])
    specials = sorted(tokenizer.specials.values())
    counts = [
        [int((template.encode(c, tokenizer).ids == i).sum()) for i in specials]
        for c in (harmless, conversation_of(turns))
    ]
    assert counts[0] == counts[1]


@each
@FEW
@given(turns=TURNS, data=st.data())
def test_responses_in_the_context_are_not_marked_and_the_tokens_stay(name, kind, turns, data):
    template, tokenizer = with_all(name, kind)
    conversation = conversation_of(turns)
    context = data.draw(st.integers(0, len(conversation.messages)))
    whole = template.encode(conversation, tokenizer)
    part = template.encode(conversation, tokenizer, context=context)
    assert part.ids.tolist() == whole.ids.tolist()
    assert not (part.is_response & ~whole.is_response).any()
    n = sum(m.role == "assistant" for m in conversation.messages[context:])
    assert said(tokenizer, part) == said(tokenizer, whole)[len(turns) - n :]


@needs_jinja
@pytest.mark.parametrize("kind", ["bytes", "byte pairs"])
@FEW
@given(turns=TURNS)
def test_templates_as_data_are_those_of_their_libraries(kind, turns):
    conversation = conversation_of(turns)
    for name in JINJA:
        template, tokenizer = with_all(name, kind)
        theirs, _ = with_all(f"{name} of Jinja", kind)
        ours = template.encode(conversation, tokenizer)
        example = theirs.encode(conversation, tokenizer)
        assert ours.ids.tolist() == example.ids.tolist()
        assert ours.is_response.tolist() == example.is_response.tolist()
        assert theirs.end_for(tokenizer) == template.end_for(tokenizer)


@needs_jinja
@FEW
@given(turns=TURNS)
def test_generation_marks_say_what_prefixes_say(turns):
    for kind in ("bytes", "byte pairs"):
        (marked, tokenizer), (plain, _) = with_all("marked of Jinja", kind), with_all("chatml of Jinja", kind)
        conversation = conversation_of(turns)
        one, other = (t.encode(conversation, tokenizer) for t in (marked, plain))
        assert one.ids.tolist() == other.ids.tolist()
        assert one.is_response.tolist() == other.is_response.tolist()


@needs_jinja
@pytest.mark.parametrize("source", [*JINJA.values(), MARKED], ids=[*JINJA, "marked"])
def test_a_template_renders_what_transformers_makes_of_it(source):
    utils = pytest.importorskip(
        "transformers.utils.chat_template_utils", reason="transformers is not installed"
    )
    messages = [
        {"role": r, "content": t} for r, t in (("user", " hi\n"), ("assistant", "é"), ("user", "<b>"))
    ]
    conversation = Conversation([Message(m["role"], m["content"]) for m in messages])
    tokenizer = with_specials(Bytes(), SPECIALS)
    for prompt in (False, True):
        (theirs,), _ = utils.render_jinja_template(
            [messages], chat_template=source, add_generation_prompt=prompt, **TOKENS
        )
        template = data.JinjaTemplate(source, TOKENS)
        ids = (
            template.encode_prompt(conversation, tokenizer)
            if prompt
            else template.encode(conversation, tokenizer).ids
        )
        assert tokenizer.decode(ids) == theirs


@pytest.mark.parametrize(
    ("template", "user", "response"),
    [(data.BARE, "\n", "\nb"), (data.CHATML, "a", "\nb"), (data.BARE, "a\n", "b"), (data.PLAIN, "a", "b")],
)
def test_no_token_reaches_from_the_prompt_into_a_response(template, user, response):
    """A model that writes a response begins with a token of its own, where the text has one for both."""
    tokens = [*(bytes([b]) for b in range(256)), b"\n\n", b"\nb", b"a\n"]
    bpe = tokenizers.BPE(tokens, [(10, 10), (10, 98), (97, 10)], pattern=r"[\s\S]+")
    tokenizer = with_specials(bpe, ["<|endoftext|>", *SPECIALS])
    conversation = Conversation([Message("user", user), Message("assistant", response)])
    example = template.encode(conversation, tokenizer)
    prompt = template.encode_prompt(Conversation(conversation.messages[:1]), tokenizer)
    assert example.ids[: len(prompt)].tolist() == prompt.tolist()
    assert not example.is_response[: len(prompt)].any() and example.is_response[len(prompt)]
    assert said(tokenizer, example) == [response + template.end_for(tokenizer).text]


def test_the_shipped_models_take_a_chat():
    tokenizer = GPT.load("numgpt:austen").tokenizer
    conversation = Conversation([Message("user", "Who is Emma?"), Message("assistant", "A friend of mine.")])
    example = data.PLAIN.encode(conversation, tokenizer)
    assert data.PLAIN.end_for(tokenizer) == data.End("\n", None)
    assert said(tokenizer, example) == ["A friend of mine.\n"]


def test_bare_adds_nothing_but_the_end():
    tokenizer = Characters.build("\n+=123")
    example = data.BARE.encode(Conversation([Message("user", "1+2="), Message("assistant", "3")]), tokenizer)
    assert tokenizer.decode(example.ids) == "1+2=3\n"
    assert example.is_response.tolist() == [False] * 4 + [True] * 2


def test_a_tokenizers_own_end_of_text_ends_what_has_no_end_of_its_own():
    tokenizer = TOKENIZERS["byte pairs"]
    end = data.PLAIN.end_for(tokenizer)
    assert end == data.End("<|endoftext|>", tokenizer.end_of_text)
    example = data.PLAIN.encode(Conversation([Message("assistant", "two\nlines")]), tokenizer)
    assert example.ids[-1] == tokenizer.end_of_text and example.is_response[-1]


@pytest.mark.parametrize("name", [*TEMPLATES, pytest.param("marked of Jinja", marks=needs_jinja)])
def test_a_template_comes_back_from_its_state_and_from_a_pickle(name):
    template, tokenizer = with_all(name, "bytes")
    conversation = Conversation([Message("user", "a"), Message("assistant", "b")])
    ids = template.encode(conversation, tokenizer).ids.tolist()
    state = json.loads(json.dumps(template.state()))
    for again in (data.template_from_state(state), pickle.loads(pickle.dumps(template))):
        assert again.state() == template.state()
        assert again.encode(conversation, tokenizer).ids.tolist() == ids


# Special tokens that are added.


@pytest.mark.parametrize("kind", [kind for kind in TOKENIZERS if kind != "llama2.c's"])
@given(text=TEXTS)
def test_a_tokenizer_with_more_special_tokens_encodes_every_text_as_before(kind, text):
    tokenizer = TOKENIZERS[kind]
    wider = with_specials(tokenizer, ["<|im_start|>", "<|im_end|>", "<|im_start|>"])
    V = tokenizer.vocab_size
    assert wider.vocab_size == V + 2 and wider.specials["<|im_start|>"] == V
    assert wider.encode(text, special="text").tolist() == tokenizer.encode(text, special="text").tolist()
    assert wider.encode("<|im_end|>", special="allow").tolist() == [V + 1]
    assert with_specials(wider, ["<|im_end|>"]) is wider
    assert tokenizers.from_state(json.loads(json.dumps(wider.state()))) == wider


def test_special_tokens_that_cannot_be_added_are_refused():
    with pytest.raises(InputError, match="'scored', which has no room for special tokens, expected bpe"):
        with_specials(TOKENIZERS["llama2.c's"], ["<|im_end|>"])
    with pytest.raises(InputError, match="a special token is empty"):
        with_specials(Bytes(), [""])
    with pytest.raises(InputError, match="'a' is an ordinary token already"):
        with_specials(Characters("ab"), ["a"])


# Bad input.

HI = Conversation([Message("user", "hi"), Message("assistant", "hello")], "x.jsonl, line 7")
TOOL = Conversation([Message("tool", "42"), Message("assistant", "so")], "x.jsonl, line 7")
WITHOUT_TOOL = dataclasses.replace(data.PLAIN, before={"assistant": ""}, behind={"assistant": ""})


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: data.CHATML.encode(HI, Bytes()), r"^template chatml: the tokenizer has no special token '<"),
        (lambda: data.LLAMA.encode_prompt(HI, Bytes()), r"add it with template.with_specials\("),
        (lambda: WITHOUT_TOOL.encode(TOOL, Bytes()), "^x.jsonl, line 7: message 1 is the tool's, expected"),
        (
            lambda: data.BARE.encode(Conversation([Message("assistant", "a\nb")], "f, line 2"), Bytes()),
            r"^f, line 2: message 1 holds '\\n', by which a response ends, expected it nowhere else: give",
        ),
        (lambda: data.BARE.encode(HI, Characters.build("\nh")), "^x.jsonl, line 7: text: character 'i'"),
        (lambda: data.BARE.encode(HI, Characters.build("helio")), r"^x.jsonl, line 7: text: character '\\n'"),
        (lambda: data.chat_template("chatlm"), r"^template: 'chatlm' is unknown, .*\(did you mean chatml"),
        (lambda: data.ChatTemplate("x", {"user": ""}, {"user": ""}), "before has user, behind user"),
        (lambda: data.ChatTemplate("x", {"assistant": ""}, {}), "before has assistant, behind nobody"),
        (lambda: data.ChatTemplate("x", {"bot": ""}, {"bot": ""}), "a role is 'bot', expected those of"),
        (lambda: dataclasses.replace(data.BARE, end="</s>"), "end is '</s>', expected one of"),
        (lambda: dataclasses.replace(data.BARE, stop=""), "stop is empty, expected a text: a response"),
        (lambda: dataclasses.replace(data.BARE, before=3), "^ChatTemplate: before is 3, expected a mapping"),
        (lambda: data.template_from_state({"type": "x"}), "type 'x' is unknown, expected one of data"),
        (lambda: data.template_from_state({"type": "data", "name": "x"}), "'before' is missing, exp"),
        (lambda: data.template_from_state(data.BARE.state() | {"y": 1}), "'y' is not expected, expected"),
        (lambda: data.template_from_state({"type": "jinja"}), "the state has type, expected source"),
    ],
    ids=range(17),
)  # fmt: skip
def test_what_a_template_cannot_do_is_one_line(call, message):
    with pytest.raises(InputError, match=message):
        call()


@needs_jinja
@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{% for %}", r"^template t: does not parse \(line 1: .*\), expected a chat template in Jinja"),
        ("{% generation %}", r"^template t: does not parse \(line 1"),
        ("{{ messages[0].content }}", "template t does not end message 2"),
        ("{% for m in messages %}{{ m.content }}{% endfor %}", "x.jsonl, line 7: the template t does not"),
        ("{{ raise_exception('only one') }}", r"line 7: the template t refuses the conversation \(only"),
        ("{{ messages.append(1) }}", r"refuses the conversation \(access to attribute 'app"),
        ("{{ ''.__class__.__mro__ }}", r"refuses the conversation \(access to attribute '__class__'"),
        ("{{ 1 / 0 }}", r"refuses the conversation \(division by zero\)"),
        ("{{ strftime_now('%Y') }}", r"refuses the conversation \('strftime_now' is"),
        ("{{ messages | length }}<|im_end|>", "renders what is before message 2 otherwise"),
        ("{% generation %}a<|im_end|>{% endgeneration %}" * 2, "marks 2 generations for 1 messages"),
        ("{% generation %}a{% endgeneration %}", "does not end message 2, a response: .* in 'a'"),
    ],
)  # fmt: skip
def test_a_template_of_others_that_cannot_be_used_is_one_line(source, message):
    with pytest.raises(InputError, match=message) as caught:
        data.JinjaTemplate(source, name="t").encode(HI, with_specials(Bytes(), SPECIALS))
    assert "\n" not in str(caught.value)


def test_without_jinja_an_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    jinja_templates._environment.cache_clear()
    with pytest.raises(
        InputError, match=r"jinja2 is not installed, .*pip install 'numgpt\[chat\]', or name a"
    ):
        data.JinjaTemplate("x")


# Files of transformers.


def config(folder, **entries):
    (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>"} | entries))
    return folder


@needs_jinja
def test_the_template_of_a_folder_is_found_wherever_transformers_writes_it(tmp_path):
    source = JINJA["chatml"]
    folder = config(tmp_path, chat_template=source, eos_token={"content": "<|im_end|>"}, pad_token=None)
    template = data.from_tokenizer_config(folder)
    assert template.source == source and template.tokens == {"bos_token": "<s>", "eos_token": "<|im_end|>"}
    assert template.specials == ("<|im_end|>",)
    named = [{"name": "tool_use", "template": "x"}, {"name": "default", "template": source}]
    config(tmp_path, chat_template=named)
    assert data.chat_template(tmp_path / "tokenizer_config.json").source == source
    config(tmp_path)
    (tmp_path / "chat_template.jinja").write_text(source)
    for path in (tmp_path, tmp_path / "chat_template.jinja"):
        template = data.chat_template(path)
        assert template.source == source and template.tokens == {"bos_token": "<s>"}


@needs_jinja
@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (
            {},
            "tokenizer_config.json: its chat_template is None, expected a text, or chat_template.jinja",
        ),
        ({"chat_template": 3}, "its chat_template is 3, expected a text"),
        ({"chat_template": [{"name": "x"}]}, "its chat_template is None, expected a text"),
        ({"chat_template": "{% if %}"}, r"tokenizer_config.json: does not parse \(line 1"),
    ],
)
def test_a_file_without_a_template_is_one_line_that_names_it(tmp_path, entries, message):
    with pytest.raises(InputError, match=message):
        data.from_tokenizer_config(config(tmp_path, **entries))
    (tmp_path / "tokenizer_config.json").write_text("[]")
    with pytest.raises(InputError, match=r"is \[\], expected an object"):
        data.from_tokenizer_config(tmp_path)
