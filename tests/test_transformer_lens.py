"""What TransformerLens reads off the same weights: hooked values, gradients, patterns and patches are ours.

TransformerLens asks for versions of its own, so it runs in a Python of its own, which NUMGPT_TRANSFORMER_LENS
names; CONTRIBUTING.md says how one is made. Without it these tests skip.
"""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from numgpt import GPT, Config
from numgpt import interpretability as inside
from numgpt.interpretability import runs

PYTHON = os.environ.get("NUMGPT_TRANSFORMER_LENS")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PYTHON is None, reason="NUMGPT_TRANSFORMER_LENS names no Python that has it"),
]

CLEAN, CORRUPTED, ANSWER, WRONG = [1, 2, 3, 4, 1, 2], [1, 5, 3, 4, 6, 2], 3, 7
SIZES = {"vocab_size": 20, "block_size": 12, "n_layer": 2, "n_head": 4, "n_embd": 16}
LLAMA = {
    "norm": "rmsnorm",
    "positions": "rotary",
    "activation": "swiglu",
    "bias": False,
    "n_kv_head": 2,
    "n_inner": 24,
    "tied": False,
}
CONFIGS = {"GPT-2": Config(**SIZES), "LLaMA": Config(**SIZES | LLAMA)}
NEAR = 1e-10  # of what may differ, where the largest number is 1 or less


def model_of(config):
    model = GPT(config, seed=0, dtype="float64")
    model.params.flat[...] += 0.1 * np.random.default_rng(0).standard_normal(model.n_params)
    return model


@pytest.fixture(scope="module", params=CONFIGS)
def pair(request, tmp_path_factory):
    """(our model, what TransformerLens found in it)."""
    folder = tmp_path_factory.mktemp("lens") / "model"
    model = model_of(CONFIGS[request.param])
    model.save(folder, layout="hf")
    task = {"clean": CLEAN, "corrupted": CORRUPTED, "answer": ANSWER, "wrong": WRONG}
    (folder / "task.json").write_text(json.dumps(task), "utf-8")
    script = Path(__file__).with_name("transformer_lens_steps.py")
    environment = {name: x for name, x in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run([PYTHON, str(script), str(folder)], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    return model, dict(np.load(folder / "found.npz"))


def near(ours, theirs):
    """Equal to 1e-10 of the larger of 1 and the largest number, −∞ where the other is −∞."""
    assert ours.shape == theirs.shape
    hidden = ~np.isfinite(ours)
    assert (hidden == (theirs < -1e30)).all()
    scale = max(1.0, abs(ours[~hidden]).max())
    np.testing.assert_allclose(ours[~hidden], theirs[~hidden], rtol=0, atol=NEAR * scale)


@pytest.fixture(scope="module")
def ours(pair):
    """(hooks, our run of the clean prompt: values, and gradients of the logit difference)."""
    model, _ = pair
    names = inside.hook_names(model.config)
    ids, metric = np.array([CLEAN]), inside.logit_difference(model, ANSWER, WRONG)
    return names, runs.run_with_gradients(model, ids, metric, names.patterns())


def test_logits_are_the_same(pair):
    model, theirs = pair
    near(model([CLEAN]), theirs["logits"])


def test_every_hook_that_has_a_counterpart_has_our_value(pair, ours):
    names, run = ours
    translated = names.translated(run.value)
    assert len(translated) == len(names.hooks)
    for name, value in translated.items():
        near(value, pair[1][f"value/{name}"])


def test_every_hook_that_has_a_counterpart_has_our_gradient(pair, ours):
    names, run = ours
    for hook in names.hooks:
        grad = run.grad[hook.ours]
        if hook.theirs.endswith("hook_resid_mid"):
            # Theirs is what ln2 reads alone: the stream goes on beside it.
            grad = grad - run.grad[hook.ours.removesuffix(".mid")]
        near(grad if hook.turn == "masked" else hook.to_theirs(grad), pair[1][f"grad/{hook.theirs}"])


@pytest.mark.parametrize("at", ["resid_pre", "resid_mid", "attn", "mlp", "heads", "q", "v"])
def test_patches_bring_back_the_same(pair, at):
    model, theirs = pair
    metric = inside.logit_difference(model, ANSWER, WRONG)
    found = inside.activation_patching(model, CLEAN, CORRUPTED, metric, at)
    near(found.metric, theirs[f"patch/{at}"])


@pytest.mark.parametrize("measure", ["mul", "abs"])
@pytest.mark.parametrize("kind", ["previous token", "duplicate token", "induction"])
def test_heads_are_detected_alike(pair, ours, kind, measure):
    model, theirs = pair
    maps = [P[0] for P in inside.attention_maps(model, CLEAN).maps]
    scores = inside.detect_head(np.stack(maps), CLEAN, kind, measure)
    found = theirs[f"detect/{kind}/{measure}"]
    if measure == "abs":  # which they round to three decimals
        assert abs(scores - found).max() <= 0.5e-3 + NEAR
    else:
        near(scores, found)
