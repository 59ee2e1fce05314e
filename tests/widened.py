"""Models of transformers whose arithmetic is float64 throughout, as oracles for ours.

A model that was turned to float64 by .double() is float32 inside: norms, rotary positions and the softmax say
so. Here float32 itself means float64 while a model is built and run, so that what is left of a difference is
rounding at 1e-16.
"""

import numpy as np
import pytest

SIZE = {
    "vocab_size": 19,
    "hidden_size": 24,
    "intermediate_size": 20,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 16,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,  # of which the embedding would get no gradient
}
LENGTH = {"original_max_position_embeddings": 8}
# A case → (model_type, settings that differ from SIZE).
CASES = {
    "Llama": ("llama", {}),
    "Llama, one key head for all": ("llama", {"num_key_value_heads": 1, "tie_word_embeddings": True}),
    "Llama, heads of another size": ("llama", {"head_dim": 10, "rms_norm_eps": 1e-3}),
    "Llama with biases": ("llama", {"attention_bias": True, "mlp_bias": True, "hidden_act": "gelu"}),
    "Llama, linear": ("llama", {"rope": {"rope_type": "linear", "factor": 2.5, "rope_theta": 500.0}}),
    "Llama, llama3": (
        "llama",
        {
            "rope": LENGTH
            | {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
            | {"rope_theta": 10.0}
        },
    ),
    "Llama, yarn": (
        "llama",
        {
            "rope": LENGTH
            | {"rope_type": "yarn", "factor": 2.0, "beta_fast": 0.5, "beta_slow": 0.05, "rope_theta": 10.0}
        },
    ),
    "Llama, yarn, mscale": (
        "llama",
        {
            "rope": LENGTH
            | {"rope_type": "yarn", "factor": 2.0, "mscale": 1.0, "mscale_all_dim": 0.5, "truncate": False}
        },
    ),
    "Llama, dynamic": (
        "llama",
        {"max_position_embeddings": 8, "rope": {"rope_type": "dynamic", "factor": 2.0}},
    ),
    "Llama, longrope": (
        "llama",
        {
            "rope": LENGTH
            | {"rope_type": "longrope", "factor": 2.0}
            | {"short_factor": [1.0, 1.5, 2.0], "long_factor": [2.0, 3.0, 5.0]}
        },
    ),
    "Mistral": ("mistral", {"sliding_window": 5}),
    "Mistral without a window": ("mistral", {"sliding_window": None, "head_dim": 8}),
    "Qwen2": ("qwen2", {}),
    "Qwen2, a window from a layer on": (
        "qwen2",
        {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1},
    ),
    "Qwen2, windows in turn": (
        "qwen2",
        {
            "use_sliding_window": True,
            "sliding_window": 5,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        },
    ),
}


def classes(kind):
    """The configuration and the model of a model_type; imported before anything is widened."""
    transformers = pytest.importorskip(
        "transformers", minversion="5", reason="transformers 5 is not installed"
    )
    name = {"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2"}[kind]
    return getattr(transformers, f"{name}Config"), getattr(transformers, f"{name}ForCausalLM")


def reference(case):
    """The model of a case, every parameter random; to be called and run within float64_throughout."""
    import torch

    kind, changes = CASES[case]
    settings = SIZE | changes
    rope = settings.pop("rope", None)
    if rope is not None:
        settings["rope_parameters"] = {"rope_theta": 10000.0} | rope
    config, model = classes(kind)
    theirs = model._from_config(
        config(**settings, use_cache=False), attn_implementation="eager", dtype=torch.float64
    ).eval()
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter += 0.3 * torch.randn(parameter.shape)
    return theirs


def outcome(theirs, tokens, targets):
    """(logits, loss, name → gradient) of a model, in NumPy."""
    import torch

    theirs.zero_grad()
    logits = theirs(torch.from_numpy(tokens)).logits
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, -2), torch.from_numpy(targets).flatten())
    loss.backward()
    grads = {name: p.grad.numpy().copy() for name, p in theirs.named_parameters()}
    return logits.detach().numpy(), loss.item(), grads


def expect_near(ours, theirs, tolerance=1e-12):
    """AssertionError unless two arrays agree, measured by the largest entry."""
    assert ours.shape == theirs.shape and ours.dtype == theirs.dtype == np.float64
    error = abs(ours - theirs).max() / abs(theirs).max()
    assert error <= tolerance, f"differs by {error:.1e} of the largest entry"
