"""The shapes of models and batches whose training steps are compared."""

# A third of the heads hold keys, and the feed-forward is 8/3 C wide, as in LLaMA 2's larger models.
LLAMA = {
    **{"vocab_size": 65, "n_head": 6, "n_kv_head": 2, "bias": False, "tied": False},
    **{"norm": "rmsnorm", "positions": "rotary", "activation": "swiglu"},
}
# As wide in what is active: of eight feed-forwards of half the width, two are asked.
MIXTRAL = LLAMA | {"n_expert": 8, "n_expert_active": 2, "router": "renorm"}
NANO = {"vocab_size": 65, "bias": False, "activation": "gelu"}
SHAPES = {
    "0": {
        "config": {"vocab_size": 65, "block_size": 16, "n_layer": 2, "n_head": 2, "n_embd": 16},
        "batch": (2, 16),
    },
    "a": {"config": NANO | {"block_size": 64, "n_layer": 4, "n_head": 4, "n_embd": 128}, "batch": (12, 64)},
    "b": {"config": NANO | {"block_size": 256, "n_layer": 6, "n_head": 6, "n_embd": 384}, "batch": (16, 256)},
    "c": {"config": {}, "batch": (4, 64)},
    "d": {"config": {}, "batch": (1, 1024)},
    "e": {"config": {}, "batch": (8, 1024)},
    "l": {
        "config": LLAMA | {"n_layer": 6, "n_embd": 384, "n_inner": 1024, "block_size": 256},
        "batch": (16, 256),
    },
    "l0": {
        "config": LLAMA | {"n_layer": 1, "n_embd": 48, "n_inner": 128, "block_size": 32},
        "batch": (2, 32),
    },
    "m": {
        "config": MIXTRAL | {"n_layer": 6, "n_embd": 384, "n_inner": 512, "block_size": 256},
        "batch": (16, 256),
    },
    "m0": {
        "config": MIXTRAL | {"n_layer": 1, "n_embd": 48, "n_inner": 64, "block_size": 32},
        "batch": (2, 32),
    },
}
HELP = (
    "0: tiny, to see it run; a: nanoGPT's CPU model; b: its GPU model;"
    " c to e: GPT-2 124M at 4 × 64, 1 × 1024 and 8 × 1024 tokens; l: b as a LLaMA, l0: tiny; m: l as a"
    " Mixtral of 8 experts, 2 active, m0: tiny (default: a)"
)
# The shapes that a kind of contestant is for, or is not for; it is for all others.
ONLY_FOR = {
    "reference": ("a",),  # elsewhere it would take minutes
    "torch-transformers": ("l", "l0"),
    "numgpt-gpt2": ("l", "l0"),
    "torch-mixtral-eager": ("m", "m0"),
    "torch-mixtral-grouped": ("m", "m0"),
}
NOT_FOR = dict.fromkeys(("torch", "torch-fused", "torch-compile"), ("m", "m0"))


def is_for(kind, shape):
    """Whether a kind of contestant runs a shape."""
    return shape in ONLY_FOR.get(kind, (shape,)) and shape not in NOT_FOR.get(kind, ())


def config_of(shape, kind="numgpt"):
    """The Config that a kind of contestant starts from."""
    from numgpt import Config

    config = Config(**SHAPES[shape]["config"])
    return equal_gpt2(config) if kind == "numgpt-gpt2" else config


def equal_gpt2(c):
    """A GPT-2 of a LLaMA's width and depth whose matrices have as many entries: a step has as many FLOPs."""
    from numgpt import Config

    C, F = c.n_embd, c.ffn_width
    of_llama = C * c.qkv_width + C * C + 3 * C * F
    inner, rest = divmod(of_llama - 4 * C * C, 2 * C)
    assert not rest, f"no GPT-2 of width {C} has {of_llama} entries in the matrices of a block"
    same = {
        name: getattr(c, name) for name in ("vocab_size", "block_size", "n_layer", "n_head", "n_embd", "tied")
    }
    return Config(**same, n_inner=inner, bias=False, activation="gelu")


def make(shape, kind="numgpt"):
    """The model and the batch that every contestant starts from."""
    import numpy as np

    import numgpt

    model = numgpt.GPT(config_of(shape, kind), seed=0)
    sizes = (2, *SHAPES[shape]["batch"])
    tokens, targets = np.random.default_rng(0).integers(0, model.config.vocab_size, sizes)
    return model, tokens, targets
