"""A tiny model of every class of transformers that is read: what its config.json says."""

from numgpt.interchange.architectures import ARCHITECTURES

SIZES = {"vocab_size": 5, "block_size": 3, "n_layer": 2, "n_head": 4, "n_embd": 8, "n_inner": 3}
SIZES |= {"n_kv_head": 2, "head_dim": 2}
# Keys that some classes have. A window and experts of their own width lie in some layers, not in all.
MORE = {"partial_rotary_factor": 1.0, "rotary_dim": 2, "attention_types": [[["global", "local"], 1]]}
MORE |= {"sliding_window": 2, "window_size": 2, "use_sliding_window": True, "max_window_layers": 1}
MORE |= {"num_experts": 3, "num_local_experts": 3, "num_experts_per_tok": 2, "moe_intermediate_size": 4}
MORE |= {"shared_expert_intermediate_size": 2}


def said(kind):
    """The keys of a tiny model of a class, as numgpt writes them, with its model_type."""
    row = ARCHITECTURES[kind]
    known = {*row.sizes.values(), *row.others}
    more = {key: value for key, value in MORE.items() if key in known}
    if kind == "llama":  # has no window
        del more["sliding_window"], more["use_sliding_window"], more["max_window_layers"]
    sizes = {row.sizes[ours]: size for ours, size in SIZES.items() if ours in row.sizes}
    return row.write(row.config(sizes | more, "config.json")) | {"model_type": kind}


def config_of(kind):
    """The Config of that model."""
    return ARCHITECTURES[kind].config(said(kind), "config.json")
