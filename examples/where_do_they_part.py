"""Two GPTs have the same weights and give different losses: where do they part first, and why?"""

import numpy as np

import numgpt
from numgpt import parity

# GPT-2's weights belong to GELU in its tanh form; here somebody runs them through the erf form, as nanoGPT
# does with OpenAI's.
config = {"vocab_size": 50, "block_size": 16, "n_layer": 3, "n_head": 4, "n_embd": 32}
model = numgpt.GPT(numgpt.Config(**config))
model.params.flat += 0.1 * np.random.default_rng(0).standard_normal(model.n_params).astype("float32")
theirs = numgpt.GPT(numgpt.Config(**config, activation="gelu"), params=model.params)

divergence = parity.first_divergence(model, theirs)
print(divergence)
assert divergence.first.name == "h.0.mlp.act" and "erf" in divergence.causes[0]
assert divergence.left is None

try:
    import torch
except ModuleNotFoundError:
    print(
        "\nPyTorch is not installed; numgpt.parity.first_divergence(model, module) compares its modules in"
        " the same way."
    )
    raise SystemExit from None


class Block(torch.nn.Module):
    """A block with nanoGPT's names, and a mistake: the scores of attention are not scaled."""

    def __init__(self, C, H):
        super().__init__()
        self.n_head = H
        self.ln_1, self.ln_2 = torch.nn.LayerNorm(C), torch.nn.LayerNorm(C)
        attention = {"c_attn": torch.nn.Linear(C, 3 * C), "c_proj": torch.nn.Linear(C, C)}
        feed_forward = {
            "c_fc": torch.nn.Linear(C, 4 * C),
            "act": torch.nn.GELU("tanh"),
            "c_proj": torch.nn.Linear(4 * C, C),
        }
        self.attn, self.mlp = torch.nn.ModuleDict(attention), torch.nn.ModuleDict(feed_forward)

    def forward(self, x):
        B, T, C = x.shape
        parts = self.attn.c_attn(self.ln_1(x)).split(C, 2)
        q, k, v = (part.view(B, T, self.n_head, -1).transpose(1, 2) for part in parts)
        y = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=1.0)
        x = x + self.attn.c_proj(y.transpose(1, 2).reshape(B, T, C))
        return x + self.mlp.c_proj(self.mlp.act(self.mlp.c_fc(self.ln_2(x))))


class GPT(torch.nn.Module):
    """A GPT with nanoGPT's names."""

    def __init__(self, V, T, L, H, C):
        super().__init__()
        parts = {
            "wte": torch.nn.Embedding(V, C),
            "wpe": torch.nn.Embedding(T, C),
            "drop": torch.nn.Dropout(0.1),
            "ln_f": torch.nn.LayerNorm(C),
        }
        self.transformer = torch.nn.ModuleDict(
            parts | {"h": torch.nn.ModuleList(Block(C, H) for _ in range(L))}
        )
        self.lm_head = torch.nn.Linear(C, V, bias=False)
        self.lm_head.weight = self.transformer.wte.weight

    def forward(self, tokens):
        t = self.transformer
        x = t.drop(t.wte(tokens) + t.wpe(torch.arange(tokens.shape[1])))
        for block in t.h:
            x = block(x)
        return self.lm_head(t.ln_f(x))


# Its attention is not a module that is called.
NAMES = {name: path for name, path in parity.GPT2.items() if name != "h.{i}.attn"}
torch.manual_seed(0)
module = GPT(50, 16, 3, 4, 32)
comparison = parity.compare(module, names=NAMES)
print(f"\n{comparison.summary}; the first that differs is {comparison.first.stage} {comparison.first.name}")

ours = numgpt.GPT(numgpt.Config(**config))
for name, tensor in module.named_parameters():
    name = name.removeprefix("transformer.")
    is_linear = name.startswith("h.") and tensor.ndim == 2
    array = tensor.detach().numpy()
    ours.params[name] = array.T if is_linear else array
divergence = parity.first_divergence(ours, module, names=NAMES)
print(f"likely cause: {divergence.causes[0]}.")
assert comparison.first.name == "h.0.attn.heads" and "not scaled in B" in divergence.causes[0]
