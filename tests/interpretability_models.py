"""Small models of two families whose every part matters, and runs with edits by hand to hold others to."""

import numpy as np

import numgpt

SIZES = {"vocab_size": 11, "block_size": 8, "n_layer": 3, "n_head": 4, "n_embd": 8}
LLAMA = {"norm": "rmsnorm", "positions": "rotary", "activation": "swiglu", "bias": False, "tied": False}
CONFIGS = {
    "gpt2": numgpt.Config(**SIZES),
    "llama": numgpt.Config(**SIZES, **LLAMA, n_kv_head=2),
}
FAMILIES = list(CONFIGS)


def a_model(config, seed=0, dtype="float64"):
    """A model whose numbers are large enough that norms, gates and softmax all bend."""
    config = CONFIGS.get(config, config)
    model = numgpt.GPT(config, seed=seed, dtype="float64")
    rng = np.random.default_rng(seed)
    for name, array in model.params.items():
        drawn = rng.standard_normal(array.shape)
        array[...] = 1 + 0.3 * drawn if ".ln_" in name or name == "ln_f.weight" else 0.4 * drawn
        if name.endswith("bias"):
            array[...] = 0.2 * drawn
    return model.astype(dtype)


def logits_with(model, ids, edit):
    """The last logits of rows of a model with values edited in flight: the Record itself, row by row."""
    return model.record(ids, edit=edit).value["lm_head"][..., -1, :]


def put(index, array):
    """An edit that writes an array into a value at an index."""

    def function(value):
        value[index] = array
        return value

    return function
