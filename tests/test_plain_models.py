"""Models that are quantized, pruned or have an adapter, wherever a model is taken."""

import numpy as np
import pytest

import numgpt
from numgpt import GPT, Config, LoRA, interpretability
from numgpt.__main__ import main
from numgpt.commands.table import COMMANDS
from numgpt.tokenizers import Bytes

IDS, WRONG = [5, 6, 7, 8], [5, 9, 7, 8]
CONFIG = Config(vocab_size=256, block_size=32, n_layer=2, n_head=2, n_embd=16)


def a_model():
    """One whose blocks count."""
    model = GPT(CONFIG, seed=1, dtype="float64", tokenizer=Bytes())
    model.params.flat[:] *= 4
    return model


def adapted(model):
    """With an adapter that has learned something."""
    other = model.extended(LoRA(rank=2))
    rng = np.random.default_rng(0)
    for name in other.params:
        if name.endswith("lora_b"):
            other.params[name][...] = 0.3 * rng.standard_normal(other.params[name].shape)
    return other


VARIANTS = {
    "8 bits": lambda model: model.quantize(),
    "4 bits": lambda model: model.quantize(bits=4, group=16),
    "pruned": lambda model: model.pruned(0.5),
    "adapted": adapted,
    "8 bits and adapted": lambda model: adapted(model.quantize()),
    "pruned and adapted": lambda model: adapted(model.pruned(0.5)),
}
every_variant = pytest.mark.parametrize("make", VARIANTS.values(), ids=list(VARIANTS))


@every_variant
def test_the_plain_model_is_the_same_function_with_the_names_of_the_base(make):
    model = make(a_model())
    plain = model.plain()
    assert list(plain.params) == list(a_model().params)
    np.testing.assert_allclose(plain([IDS]), model([IDS]), atol=1e-12)
    assert abs(plain([IDS]) - a_model()([IDS])).max() > 1e-4  # so it is not the base
    assert plain.plain() is plain


def test_a_model_without_additions_is_plain_itself():
    model = a_model()
    assert model.plain() is model
    copied = model.pruned(0.5).dequantized()  # nothing is rounded: the masks stay
    assert list(copied.params) == list(model.pruned(0.5).params)


EXPERIMENTS = {
    "attribution": lambda m: interpretability.direct_logit_attribution(m, IDS, 3, 1, by_head=True).value,
    "qk": lambda m: interpretability.qk_circuit(m, 1, 0).eigenvalues,
    "ov": lambda m: interpretability.ov_circuit(m, 1, 0, between="tokens").eigenvalues,
    "copying": lambda m: interpretability.copying_scores(m),
    "gradient": lambda m: interpretability.gradient_times_input(m, IDS, a_metric(m)).score,
    "integrated": lambda m: interpretability.integrated_gradients(m, IDS, a_metric(m), steps=4).score,
    "tracing": lambda m: interpretability.causal_tracing(m, IDS, (1, 2), draws=2).effect["resid_post"],
    "lens": lambda m: interpretability.logit_lens(m, IDS).kl,
    "patching": lambda m: interpretability.activation_patching(m, IDS, WRONG, a_metric(m)).share,
    "heads": lambda m: interpretability.attention_maps(m, IDS).maps[1],
}


def a_metric(model):
    return interpretability.logit_difference(model, 1, 2)


@pytest.mark.parametrize("experiment", EXPERIMENTS.values(), ids=list(EXPERIMENTS))
@every_variant
def test_an_experiment_on_it_is_that_on_the_plain_model(make, experiment):
    model = make(a_model())
    ours, plain, base = (np.asarray(experiment(m)) for m in (model, model.plain(), a_model()))
    size = np.nanmax(abs(plain))
    np.testing.assert_allclose(ours, plain, atol=1e-9 * size)
    assert np.nanmax(abs(plain - base)) > 1e-6 * size


# Commands: each runs, or says in one line why not.

CALLS = {
    "chat": None,  # reads a terminal
    "check": None,  # takes no model
    "convert": ["convert {m} out", "convert {m} out --to gguf"],
    "curvature": ["curvature {m} --data text.txt"],
    "diff": ["diff {m} base", "diff base {m}", "diff {m} {m} --all", "diff {m} base --configs"],
    "doctor": None,
    "eval": ["eval {m} --data text.txt"],
    "explain": None,
    "explore": ["explore {m} --prompt shells --out page.html"],
    "export": None,
    "info": ["info {m}"],
    "inspect": [
        f"inspect {{m}} --prompt shells {measure}"
        for measure in ("attention", "lens", "heads", "attribute --against x", "neurons --top 2")
    ],
    "learn": None,
    "plot": ["plot {m}"],
    "predict": ["predict {m} --data text.txt"],
    "profile": ["profile {m} --rounds 1 --tokens 8"],
    "prune": ["prune {m} out --sparsity 0.5"],
    "quantize": ["quantize {m} out --bits 8", "quantize {m} --table --data text.txt"],
    "runs": None,
    "sample": ["sample {m} --max-new-tokens 3"],
    "tokenizer": None,
    "train": ["train --init-from {m} --data text.txt --steps 1 --eval-iters 1 --sample-tokens 2 --out out"],
    "tune": ["tune sft {m} --data chat.jsonl --steps 1 --out out"],
    "verify": None,
}


def test_every_command_is_called_here_or_takes_no_model():
    assert set(COMMANDS) <= set(CALLS)


@pytest.mark.parametrize("line", [line for lines in CALLS.values() for line in lines or ()])
@pytest.mark.parametrize("kind", ["8 bits", "4 bits", "pruned", "adapted"])
def test_a_command_takes_it_or_refuses_it_in_one_line(kind, line, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("she sells sea shells by the sea shore. " * 60)
    (tmp_path / "chat.jsonl").write_text('{"prompt": "a", "completion": "b"}\n' * 20)
    base = a_model().astype("float32")
    base.save("base")
    VARIANTS[kind](base).save("m")
    status = main(line.format(m="m").split())
    told = capsys.readouterr().err
    assert "Traceback" not in told
    assert status in (0, 1, 2)
    if status == 2:
        assert len([part for part in told.splitlines() if part.startswith("numgpt: ")]) == 1, told
        assert "expected" in told, told
    if status == 1:
        assert line.startswith("diff"), told


@pytest.mark.parametrize("kind", ["8 bits", "4 bits", "pruned", "adapted"])
def test_a_difference_from_the_base_is_found_and_none_from_its_own_plain_form(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    base = a_model()
    other = VARIANTS[kind](base)
    assert numgpt.parity.first_divergence(other, base).first is not None
    assert numgpt.parity.first_divergence(other, other.plain()).first is None
