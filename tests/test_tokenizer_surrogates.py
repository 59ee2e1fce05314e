"""Half of a character is in no file of UTF-8: wherever one comes in, our words say so, and no library's."""

import json

import pytest
from tokenizer_samples import content, token

from numgpt import InputError, tokenizers
from numgpt.tokenizers import BPE, Bytes, Characters, gpt2_files, huggingface_file, tiktoken_file, unigram
from numgpt.tokenizers.patterns import Pattern

HALF = "\ud800"
WAYS = {
    "characters": lambda: Characters(HALF),
    "characters of a text": lambda: tokenizers.build("chars", "a\udc80"),
    "special tokens": lambda: BPE(Bytes.pieces, [], specials={HALF: 256}),
    "the pattern": lambda: BPE(Bytes.pieces, [], HALF),
    "a pattern alone": lambda: Pattern(HALF),
    "a pattern in a name": lambda: tokenizers.build(f"bpe:300:{HALF}", "abc"),
    "special tokens of training": lambda: tokenizers.train("abab", 300, specials=[HALF]),
    "a pattern of training": lambda: tokenizers.train("abab", 300, pattern=f"{HALF}|[a-z]"),
    "a text of training": lambda: tokenizers.train(f"ab{HALF}", 300),
    "GPT-2's vocabulary": lambda: gpt2_files.read({HALF: 0, "a": 1}, b""),
    "GPT-2's special tokens": lambda: gpt2_files.read({"a": 0}, b"", specials={HALF: 1}),
    "tiktoken's special tokens": lambda: tiktoken_file.read(b"YQ== 0\n", "x", specials={HALF: 1}),
    "Hugging Face's vocabulary": lambda: huggingface_file.read(content(model__vocab={HALF: 0})),
    "Hugging Face's merges": lambda: huggingface_file.read(content(model__merges=[["a", HALF]])),
    "added tokens": lambda: huggingface_file.read(content(added_tokens=[token(HALF, 277)])),
    "a text": lambda: Bytes().encode(HALF),
    "a text for characters": lambda: Characters("a").encode(HALF),
    "a text for byte pairs": lambda: BPE(Bytes.pieces, []).encode(f"a{HALF}"),
    "special tokens of a unigram": lambda: unigram.train("the cat " * 50, 300, specials=[HALF]),
    "a text of a unigram": lambda: unigram.train("the cat " * 50 + HALF, 300),
}


@pytest.mark.parametrize("way", WAYS)
def test_half_of_a_character_is_named_in_words_of_ours(way):
    if "unigram" in way:
        pytest.importorskip("sentencepiece", reason="trains unigram models")
    with pytest.raises(InputError, match=r"U\+D[8C][08]0|'.*\\ud800'.*, expected") as caught:
        WAYS[way]()
    assert "codec" not in str(caught.value) and "surrogates" not in str(caught.value)


def test_a_state_with_half_of_a_character_is_refused_however_it_is_spelled():
    state = json.loads('{"type": "chars", "characters": "a\\ud800"}')
    with pytest.raises(InputError, match=r"U\+D800, half of a character"):
        tokenizers.from_state(state)
