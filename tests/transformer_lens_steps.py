"""What TransformerLens finds in a model, for tests/test_transformer_lens.py: it imports no numgpt.

    python transformer_lens_steps.py FOLDER

FOLDER holds a model as transformers loads it, and task.json: tokens of a clean and a corrupted prompt, the
answer and the wrong one. found.npz gets every hook's value and gradient, and what patching brings back.
"""

import json
import sys
from pathlib import Path

import numpy as np
import tokenizers
import torch
import transformers
from transformer_lens import TransformerBridge, head_detector, patching

PATCHINGS = {
    "resid_pre": patching.get_act_patch_resid_pre,
    "resid_mid": patching.get_act_patch_resid_mid,
    "attn": patching.get_act_patch_attn_out,
    "mlp": patching.get_act_patch_mlp_out,
    "heads": patching.get_act_patch_attn_head_out_by_pos,
    "q": patching.get_act_patch_attn_head_q_by_pos,
    "v": patching.get_act_patch_attn_head_v_by_pos,
}


def widen():
    """float32 is float64 from here on: norms, rotary positions and tables of patching ask for it by name."""
    torch.set_default_dtype(torch.float64)
    torch.float32 = torch.float = torch.float64
    torch.Tensor.float = torch.Tensor.double


def booted(folder):
    """The model as its file has it: nothing folded, nothing centred."""
    network = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float64, attn_implementation="eager"
    )
    words = {str(n): n for n in range(network.config.vocab_size)}
    own = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="0"))
    own.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    named = transformers.PreTrainedTokenizerFast(
        tokenizer_object=own, eos_token="0", pad_token="0", bos_token="0"
    )
    named.save_pretrained(folder)
    return TransformerBridge.boot_transformers(
        str(folder), hf_model=network, dtype=torch.float64, device="cpu"
    )


def with_gradients(model, tokens, metric):
    """Every hook's value and its gradient of a metric of the logits, by each of its names."""
    values, grads = {}, {}

    def forward(value, hook):
        values[id(hook)] = value.detach().numpy().copy()

    def backward(grad, hook):
        grad = grad[0] if isinstance(grad, tuple) else grad
        grads[id(hook)] = grad.detach().numpy().copy()

    points = dict(model.hook_dict)
    for point in {id(point): point for point in points.values()}.values():
        point.add_hook(forward, dir="fwd")
        point.add_hook(backward, dir="bwd")
    logits = model(tokens)
    metric(logits).sum().backward()
    model.reset_hooks()
    named = [{name: kept[id(p)] for name, p in points.items() if id(p) in kept} for kept in (values, grads)]
    return *named, logits.detach().numpy()


def detected(model, cache, tokens):
    """How much each head is of a kind, (layers, heads), by kind and measure."""
    found = {}
    for kind in ("previous_token", "duplicate_token", "induction"):
        mask = getattr(head_detector, f"get_{kind}_head_detection_pattern")(tokens)
        for measure in ("mul", "abs"):
            options = {"exclude_bos": False, "exclude_current_token": False, "error_measure": measure}
            scores = [
                head_detector.compute_head_attention_similarity_score(P, mask, **options)
                for layer in range(model.cfg.n_layers)
                for P in cache[f"blocks.{layer}.attn.hook_pattern"][0]
            ]
            name = f"detect/{kind.replace('_', ' ')}/{measure}"
            found[name] = np.array(scores).reshape(model.cfg.n_layers, -1)
    return found


def main(folder):
    """Everything that is asked for."""
    task = json.loads((folder / "task.json").read_text("utf-8"))
    clean, corrupted = (torch.tensor([task[name]]) for name in ("clean", "corrupted"))
    widen()
    answer, wrong = task["answer"], task["wrong"]
    model = booted(folder)

    def metric(logits):
        return logits[:, -1, answer] - logits[:, -1, wrong]

    values, grads, logits = with_gradients(model, clean, metric)
    found = {f"value/{name}": value for name, value in values.items()}
    found |= {f"grad/{name}": grad for name, grad in grads.items()}
    found["logits"] = logits
    with torch.no_grad():
        _, cache = model.run_with_cache(clean)
        for name, patch in PATCHINGS.items():
            found[f"patch/{name}"] = patch(model, corrupted, cache, lambda z: metric(z).mean()).numpy()
        found |= detected(model, cache, clean)
    np.savez(folder / "found.npz", **found)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
