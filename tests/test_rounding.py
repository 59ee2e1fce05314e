"""What rounding explains: right programs of any size, at any loss, stay within it; NaN does not."""

import itertools

import numpy as np
import pytest
from test_divergence import BOTH, model_of, torch_gpt

from numgpt import GPT, AdamW, Config, parity
from numgpt.layers.transformer import loss
from numgpt.ops.activations import ACTIVATIONS
from numgpt.ops.norms import NORMS
from numgpt.parity import rounding


@BOTH
@pytest.mark.parametrize("norm_position", ["pre", "post"])
@pytest.mark.parametrize(
    "sizes", [(1, 1, 1, 5), (2, 2, 1, 1), (2, 1, 2, 5), (3, 3, 3, 8), (4, 2, 0, 1)], ids=str
)
def test_right_programs_do_not_part_at_sizes_where_sums_cancel(sizes, norm_position, dtype):
    pytest.importorskip("torch", reason="PyTorch is not installed")
    from numgpt.parity.comparison import rows
    from numgpt.parity.torch_record import torch_run

    (C, H, L, T), V = sizes, 3
    shape = {"vocab_size": V, "block_size": T, "n_layer": L, "n_head": H, "n_embd": C}
    # of two channels a norm without parameters leaves a sign alone: its gradients are nothing but rounding
    norms = [norm for norm in NORMS if (norm, C) != ("standardise", 2)]
    for seed, (scale, activation) in enumerate(itertools.product((0.3, 2.0), ACTIVATIONS)):
        rng = np.random.default_rng(seed)
        parts = {"activation": activation} if L else {}  # without layers nothing reads it
        config = Config(**shape, **parts, norm=norms[seed % len(norms)], norm_position=norm_position)
        model = GPT(config, seed, "float64")
        model.params.flat += scale * rng.standard_normal(model.n_params)
        form, batch = parity.sides.Ours(model).form, rng.integers(0, V, (2, 4, T))
        theirs = torch_run(form, loss, batch, dtype)
        limits = rounding.explained(form, *batch, dtype)
        differing = [str(r) for r in rows(form.run(*batch, dtype), theirs, limits, dtype) if not r.agrees]
        assert not differing, differing


@BOTH
def test_right_programs_do_not_part_where_the_loss_is_all_but_0(dtype):
    rng, model = np.random.default_rng(0), model_of()
    tokens, targets = rng.integers(0, 19, (2, 2, 8))
    optimizer = AdamW(model, weight_decay=0.0, clip=0)
    for _ in range(400):
        optimizer.step(model.loss_and_grads(tokens, (tokens + 1) % 19)[1], 1e-2)
    found = parity.first_divergence(model, torch_gpt(model), tokens, (tokens + 1) % 19, dtype=dtype)
    assert found.first is None and model.loss(tokens, (tokens + 1) % 19) < 1e-3, str(found)


@BOTH
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_models_that_hold_no_numbers_do_not_agree_not_even_with_themselves(bad, dtype):
    model, name = model_of(), "h.0.mlp.c_proj.bias"
    model.params[name][0] = bad
    for other in (model_of(), model):
        for a, b in ((model, other), (other, model), (model, torch_gpt(other))):
            assert parity.first_divergence(a, b, dtype=dtype).first.name == "h.0.mlp.c_proj"
