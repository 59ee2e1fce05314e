"""Runs of TransformerLens, for tests/test_transformer_lens.py, by the Python that has it, without numgpt.

    python transformer_lens_runs.py FOLDER

FOLDER holds asked.json, the fields of each model's config and the hooks to patch, and for each NAME.npz: its
parameters under the names of a HookedTransformer, clean and corrupted prompts, answers and wrong answers.
Each gets NAME.out.npz: every hooked value of the clean prompts, every gradient of the corrupted ones, and the
metric under each patch.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformer_lens.head_detector import compute_head_attention_similarity_score as similarity
from transformer_lens.head_detector import (
    get_duplicate_token_head_detection_pattern,
    get_induction_head_detection_pattern,
    get_previous_token_head_detection_pattern,
)

DETECTED = {
    "previous token": get_previous_token_head_detection_pattern,
    "duplicate token": get_duplicate_token_head_detection_pattern,
    "induction": get_induction_head_detection_pattern,
}


def loaded(fields, given):
    """A model with the parameters of a file; those that it does not have are 0, biases of a LLaMA."""
    model = HookedTransformer(HookedTransformerConfig(**fields, dtype=torch.float64, device="cpu"))
    own = model.state_dict()
    fixed = ("mask", "IGNORE", "rotary")
    state = {k: v if any(part in k for part in fixed) else torch.zeros_like(v) for k, v in own.items()}
    for name, array in given.items():
        assert state[name].shape == array.shape, f"{name}: {state[name].shape}, given {array.shape}"
        state[name] = torch.tensor(array)
    model.load_state_dict(state)
    return model


def metric(logits, answers):
    """The logit difference of each row."""
    rows = range(len(logits))
    return sum(logits[n, -1, answers[0][n]] - logits[n, -1, answers[1][n]] for n in rows)


def gradients(model, tokens, answers):
    """hook → the gradient of the metric's sum, added up where a hook is passed several times."""
    found = {}

    def note(grad, hook):
        found[hook.name] = found.get(hook.name, 0) + grad.detach().numpy()

    hooks = [(name, note) for name in model.hook_dict if not name.endswith("attn_scores")]
    with model.hooks(bwd_hooks=hooks):
        metric(model(tokens), answers).backward()
    return found


def patched(model, clean, tokens, answers, hook, by_head):
    """The mean metric with each layer's, position's and head's value of a hook from the clean run."""
    config = model.cfg
    _, cache = model.run_with_cache(clean)
    first = cache[f"blocks.0.{hook}"]
    heads = range(first.shape[2]) if by_head else [slice(None)]
    found = np.zeros((config.n_layers, tokens.shape[1], len(heads)))
    for layer, position, head in np.ndindex(found.shape):
        name, part = f"blocks.{layer}.{hook}", heads[head]

        def put(value, hook, name=name, position=position, part=part):
            value = value.clone()
            value[:, position, part] = cache[name][:, position, part]
            return value

        logits = model.run_with_hooks(tokens, fwd_hooks=[(name, put)])
        found[layer, position, head] = float(metric(logits, answers)) / len(tokens)
    return found if by_head else found[..., 0]


def main(folder):
    """A file of results for each of what is asked."""
    for name, asked in json.loads((folder / "asked.json").read_text()).items():
        given = dict(np.load(folder / f"{name}.npz"))
        clean, tokens = (torch.tensor(given.pop(key)) for key in ("clean", "corrupted"))
        answers = given.pop("answers"), given.pop("wrong")
        model = loaded(asked["config"], given)
        logits, cache = model.run_with_cache(clean)
        out = {f"value {hook}": value.detach().numpy() for hook, value in cache.items()}
        out |= {f"gradient {hook}": grad for hook, grad in gradients(model, tokens, answers).items()}
        out["logits"] = logits.detach().numpy()
        with torch.no_grad():
            for at, (hook, by_head) in asked["patched"].items():
                out[f"patched {at}"] = patched(model, clean, tokens, answers, hook, by_head)
            for kind, pattern in DETECTED.items():
                mask, P = pattern(clean[:1]).double(), cache["blocks.1.attn.hook_pattern"][0]
                for measure in ("mul", "abs"):
                    settings = {"exclude_bos": False, "exclude_current_token": False}
                    scores = [similarity(head.clone(), mask, error_measure=measure, **settings) for head in P]
                    out[f"{kind} {measure}"] = np.array(scores)
        np.savez(folder / f"{name}.out.npz", **out)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
