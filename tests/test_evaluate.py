"""The numbers of numgpt eval: every token is predicted once, with the context that the protocol gives it."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from numgpt import GPT, Config, InputError
from numgpt.evaluation.score import score
from numgpt.proofs.subjects import SMALL
from numgpt.tokenizers import Bytes, Characters

MODEL = GPT(Config(**SMALL), 1, "float64", Characters("abcdefg"))


@given(n=st.integers(2, 40), stride=st.integers(1, 5), batch=st.integers(1, 4), seed=st.integers(0, 99))
def test_each_token_is_predicted_once_from_the_context_of_its_window(n, stride, batch, seed):
    ids = np.random.default_rng(seed).integers(0, 7, n)
    result = score(MODEL, ids, stride, batch)
    losses, end = [], min(5, n - 1)
    windows = [(0, end, 0)]
    while end < n - 1:
        done, end = end, min(end + stride, n - 1)
        windows.append((max(0, end - 5), end, done))
    for start, end, done in windows:
        logits = MODEL(ids[start:end])
        for t in range(done, end):
            row = logits[t - start]
            losses.append(math.log(np.exp(row).sum()) - row[ids[t + 1]])
    assert result.tokens == n - 1 == len(losses)
    assert result.loss == pytest.approx(np.mean(losses), rel=1e-12)
    assert result.perplexity == pytest.approx(math.exp(np.mean(losses)), rel=1e-12)
    assert result.bits_per_byte == pytest.approx(sum(losses) / math.log(2) / (n - 1), rel=1e-12)


def test_bits_per_byte_counts_bytes_not_tokens():
    text = "é" * 10
    model = GPT(Config(**SMALL | {"vocab_size": 2}), tokenizer=Characters("aé"))
    result = score(model, model.tokenizer.encode(text))
    assert (result.tokens, result.bytes) == (9, 18)
    assert GPT(Config(**SMALL | {"vocab_size": 256}), tokenizer=Bytes()).tokenizer.encode(text).size == 20


@pytest.mark.parametrize("stride", [0, 6])
def test_a_stride_out_of_range_is_an_error(stride):
    with pytest.raises(InputError, match=f"stride is {stride}, expected 1 to block_size 5"):
        score(MODEL, np.zeros(9, int), stride)


def test_a_text_too_short_to_predict_is_an_error():
    with pytest.raises(InputError, match="the text has 1 tokens, expected at least 2"):
        score(MODEL, np.zeros(1, int))
