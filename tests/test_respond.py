"""Responses: what is written at once is what is written alone, and ends where the template ends it."""

import numpy as np
import pytest

from numgpt import GPT, Config, InputError, tokenizers, tuning
from numgpt.data import BARE, CHATML, PLAIN, Conversation, Message

CHARACTERS = "".join(sorted("\n :AUabcdefghijklmnopqrstuvwxyz"))


def model(tokenizer):
    config = Config(tokenizer.vocab_size, block_size=64, n_layer=2, n_head=2, n_embd=16)
    made = GPT(config, seed=1, dtype="float64", tokenizer=tokenizer)
    made.params.flat[...] += 0.3 * np.random.default_rng(0).standard_normal(made.n_params)
    return made


ASKED = [Conversation([Message("user", text)]) for text in ("a", "how are", "well then", "no", "yes")]
SETTINGS = [
    (tokenizers.Characters(CHARACTERS), BARE),
    (tokenizers.Characters(CHARACTERS), PLAIN),
    (CHATML.with_specials(tokenizers.Bytes()), CHATML),
]


@pytest.mark.parametrize(("tokenizer", "template"), SETTINGS, ids=["bare", "plain", "chatml"])
@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_each_response_is_that_of_its_prompt_alone(tokenizer, template, batch_size):
    own = model(tokenizer)
    found = tuning.respond(own, ASKED, template, max_new_tokens=12, batch_size=batch_size)
    end = template.end_for(tokenizer)
    for conversation, text in zip(ASKED, found, strict=True):
        prompt = template.encode_prompt(conversation, tokenizer)
        alone = own.generate(prompt, 12, temperature=0)[len(prompt) :]
        assert text == tokenizer.decode(alone).partition(end.text)[0]
        assert end.text not in text


def test_a_seed_draws_the_same_responses_again():
    own = model(SETTINGS[0][0])
    drawn = [tuning.respond(own, ASKED, BARE, max_new_tokens=8, temperature=1.0, seed=s) for s in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_a_model_without_a_tokenizer_answers_nothing():
    own = model(SETTINGS[0][0])
    own.tokenizer = None
    with pytest.raises(InputError, match="the model has no tokenizer, expected one"):
        tuning.respond(own, ASKED, BARE)
