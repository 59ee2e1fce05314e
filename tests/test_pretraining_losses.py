"""What pre-training may minimise besides the surprise: smoothed targets, and logits that stay small."""

import numpy as np
import pytest

import numgpt
from numgpt import GPT, Config, InputError, Training
from numgpt.data.corpus import Corpus
from numgpt.layers import transformer
from numgpt.layers.pretraining_losses import surprise
from numgpt.model import differentiable
from numgpt.training.objective import Pretraining, step_loss_and_grads

CONFIG = Config(vocab_size=11, block_size=6, n_layer=2, n_head=2, n_embd=8)
MIXTURE = Config(vocab_size=11, block_size=6, n_layer=1, n_head=2, n_embd=8, n_expert=3)
RNG = np.random.default_rng(3)
X, Y = RNG.integers(0, 11, (2, 6)), RNG.integers(0, 11, (2, 6))
SOME = np.where(RNG.random((2, 6)) < 0.4, -1, Y)
TERMS = [(0.1, 0.0), (0.0, 0.3), (0.2, 1e-2)]


def by_hand(logits, targets, smoothing, weight):
    """The loss from its definition, in long double."""
    logits = logits.astype("longdouble")
    lse = np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1)) + logits.max(-1)
    logp = logits - lse[..., None]
    q = smoothing / 11 + (1 - smoothing) * (np.arange(11) == targets[..., None])
    each, counts = -(q * logp).sum(-1), targets >= 0
    return each[counts].mean() + weight * (lse**2).mean()


@pytest.mark.parametrize("targets", [Y, SOME], ids=["all count", "some count"])
@pytest.mark.parametrize(("smoothing", "weight"), TERMS)
def test_the_loss_is_its_definition_and_its_gradient_the_complex_steps(smoothing, weight, targets):
    model, layer = GPT(CONFIG, seed=2, dtype="float64"), surprise(smoothing, weight)
    grads = model.params.like()
    loss = differentiable.loss_and_grads(model, layer, (X, targets), grads)
    assert float(loss) == pytest.approx(float(by_hand(model(X), targets, smoothing, weight)), rel=1e-13)
    v = np.random.default_rng(0).standard_normal(model.n_params)
    moved = model.astype("complex128")
    moved.params.flat[:] += 1e-30j * v
    derivative = differentiable.loss(moved, layer, (X, targets)).imag / 1e-30
    assert grads.flat @ v == pytest.approx(derivative, rel=1e-12)


def test_without_either_term_it_is_the_loss_itself():
    assert surprise() is transformer.loss


TOKENS = np.random.default_rng(5).integers(0, 11, 200)
CORPUS = Corpus(TOKENS, TOKENS, numgpt.tokenizers.Characters("abcdefghijk"), "random tokens", "", {})


@pytest.mark.parametrize("config", [CONFIG, MIXTURE], ids=["dense", "mixture"])
def test_micro_batches_add_up_to_the_whole_step(config):
    """Each term of each micro-batch weighs its share: four of one row are one of four."""
    model = GPT(config, seed=2, dtype="float64")
    recipe = {"label_smoothing": 0.1, "z_loss": 0.01, "seed": 1}
    if config is MIXTURE:
        recipe |= {"balance_loss": 0.0}  # a product of two means: no sum over rows
    parts = Pretraining(CORPUS, Training(batch_size=2, accumulate=4, **recipe), 6, int(config is MIXTURE))
    grads, summed = model.params.like(), model.params.like()
    total, _ = step_loss_and_grads(model, parts, 0, 4, summed)
    rows = [parts.batch(0, n).inputs[:2] for n in range(4)]
    whole = Pretraining(CORPUS, Training(batch_size=8, **recipe), 6, int(config is MIXTURE))
    inputs = tuple(np.concatenate(arrays) for arrays in zip(*rows))
    loss = differentiable.loss_and_grads(model, whole.layer, inputs, grads)
    assert total == pytest.approx(float(loss), rel=1e-13)
    np.testing.assert_allclose(summed.flat, grads.flat, atol=1e-14)


def test_the_held_out_loss_is_the_surprise_alone():
    objective = Pretraining(CORPUS, Training(label_smoothing=0.3, z_loss=1.0), 6)
    assert all(batch.layer is transformer.loss for batch in objective.held_out())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"label_smoothing": 1.0}, "label_smoothing is 1.0, expected at least 0 and less than 1"),
        ({"z_loss": -1e-4}, "z_loss is -0.0001, expected 0 or more"),
        ({"cooldown": 1.5}, "cooldown is 1.5, expected 0 to 1, a share of the steps"),
        ({"optimizer": "lion"}, "optimizer is 'lion', expected one of adamw, muon"),
    ],
)
def test_settings_out_of_range_are_errors(settings, message):
    with pytest.raises(InputError, match=message):
        Training(**settings)


def test_smoothing_is_pytorchs():
    torch = pytest.importorskip("torch")
    model = GPT(CONFIG, seed=2, dtype="float64")
    loss = differentiable.loss(model, surprise(0.15), (X, SOME))
    theirs = torch.nn.CrossEntropyLoss(label_smoothing=0.15, ignore_index=-1)
    expected = theirs(torch.tensor(model(X)).reshape(-1, 11), torch.tensor(SOME).reshape(-1))
    assert float(loss) == pytest.approx(expected.item(), rel=1e-12)


def test_documents_of_a_window_are_read_each_by_itself():
    """Logits are those of each document alone, and a whole step's loss is theirs."""
    tokens = np.array([3, 0, 5, 6, 7, 0, 8, 9, 2, 0, 1, 4] * 10)
    corpus = Corpus(tokens, tokens, Ending("abcdefghijk"), "documents", "", {})
    objective = Pretraining(corpus, Training(batch_size=4, documents=True), 6)
    model = GPT(CONFIG, seed=2, dtype="float64")
    batch = objective.batch(0, 0)
    whole = differentiable.loss(model, batch.layer, batch.inputs, visibility=batch.visibility)
    surprises = []
    for x, y in zip(*batch.inputs[:2]):
        begins = sorted({0, *np.flatnonzero(x == 0)})
        for begin, end in zip(begins, [*begins[1:], len(x)]):
            one = x[begin:end], y[begin:end]
            surprises += [float(model.loss(*one))] * (end - begin)
    assert float(whole) == pytest.approx(np.mean(surprises), rel=1e-12)
    assert all(held.visibility is not None for held in objective.held_out())
    plain = Pretraining(corpus, Training(batch_size=4), 6).batch(0, 0)
    assert float(whole) != pytest.approx(
        float(differentiable.loss(model, plain.layer, plain.inputs)), rel=1e-6
    )


class Ending(numgpt.tokenizers.Characters):
    """Characters whose first ends a text."""

    end_of_text = 0


def test_documents_that_nothing_tells_apart_are_errors():
    with pytest.raises(InputError, match="tokenizer has no special token that ends a text"):
        Pretraining(CORPUS, Training(documents=True), 6)
    tokens = 1 + TOKENS % 10
    corpus = Corpus(tokens, tokens, Ending("abcdefghijk"), "one", "", {})
    with pytest.raises(InputError, match="the text has no 'a' between its texts"):
        Pretraining(corpus, Training(documents=True), 6)
