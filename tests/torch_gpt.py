"""A GPT in PyTorch with nanoGPT's names, as a user may have written it: right, or with a common fault."""

import torch
from torch import nn
from torch.nn import functional as F

# What the differ should say of a model → how the model is made.
FAULTS = {
    "GELU in its erf form": {"activation": nn.GELU()},
    "epsilon is 1e-05 in A, 1e-12 in B": {"epsilon": 1e-12},
    "by C − 1 in B": {"unbiased": True},
    "(out, in) in B": {"transposed": True},
    "a copy of it in B": {"untied": True},
    "padded from 19 tokens to 64 in B": {"padded": 64},
    "1/√D in A, not scaled in B": {"scale": 1.0},
    "divided by the block's number too": {"by_block": True},
    "after each sum in B (post-norm)": {"post": True},
    "the order is k, q, v": {"order": (1, 0, 2)},
    "the order is v, k, q": {"order": (2, 1, 0)},
    "own token in B, not the next": {"shift": -1},
    "off by one": {"shift": 1},
    "the sum in B": {"reduction": "sum"},
}


class LayerNorm(nn.LayerNorm):
    """nn.LayerNorm, or one that divides the variance by C − 1."""

    unbiased = False

    def forward(self, x):
        if not self.unbiased:
            return super().forward(x)
        rstd = (x.var(-1, keepdim=True) + self.eps) ** -0.5
        return (x - x.mean(-1, keepdim=True)) * rstd * self.weight + self.bias


class Attention(nn.Module):
    """Causal attention."""

    def __init__(self, C, H, number, f):
        super().__init__()
        self.n_head, self.f, self.number = H, f, number
        self.c_attn, self.c_proj = nn.Linear(C, 3 * C), nn.Linear(C, C)

    def forward(self, x):
        B, T, C = x.shape
        parts = [a.view(B, T, self.n_head, -1).transpose(1, 2) for a in self.c_attn(x).split(C, dim=2)]
        q, k, v = (parts[i] for i in self.f.get("order", (0, 1, 2)))
        scale = self.f.get("scale", (C // self.n_head) ** -0.5)
        if self.f.get("by_block"):
            scale /= self.number + 1
        hidden = ~torch.ones(T, T, dtype=torch.bool).tril()
        scores = (q @ k.transpose(-2, -1) * scale).masked_fill(hidden, -torch.inf)
        return self.c_proj((scores.softmax(-1) @ v).transpose(1, 2).reshape(B, T, C))


class Block(nn.Module):
    """A block with norms before each part, or after each sum."""

    def __init__(self, C, H, number, f):
        super().__init__()
        self.ln_1, self.ln_2 = (LayerNorm(C, eps=f.get("epsilon", 1e-5)) for _ in range(2))
        self.attn = Attention(C, H, number, f)
        self.post = f.get("post", False)
        parts = {
            "c_fc": nn.Linear(C, 4 * C),
            "act": f.get("activation", nn.GELU("tanh")),
            "c_proj": nn.Linear(4 * C, C),
            "dropout": nn.Dropout(0.1),
        }
        self.mlp = nn.Sequential()
        for name, part in parts.items():
            self.mlp.add_module(name, part)

    def forward(self, x):
        if self.post:
            x = self.ln_1(x + self.attn(x))
            return self.ln_2(x + self.mlp(x))
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class GPT(nn.Module):
    """The whole model; faults as in FAULTS."""

    def __init__(self, V=19, T=8, L=2, H=2, C=8, **f):
        super().__init__()
        wide = f.get("padded", V)
        blocks = nn.ModuleList(Block(C, H, i, f) for i in range(L))
        parts = {
            "wte": nn.Embedding(wide, C),
            "wpe": nn.Embedding(T, C),
            "drop": nn.Dropout(0.1),
            "h": blocks,
            "ln_f": LayerNorm(C, eps=f.get("epsilon", 1e-5)),
        }
        self.f = f
        self.transformer = nn.ModuleDict(parts)
        self.lm_head = nn.Linear(C, wide, bias=False)
        if not f.get("untied"):
            self.lm_head.weight = self.transformer.wte.weight
        for m in self.modules():
            if isinstance(m, LayerNorm):
                m.unbiased = f.get("unbiased", False)

    def forward(self, idx, targets=None):
        t = self.transformer
        x = t.drop(t.wte(idx) + t.wpe(torch.arange(idx.shape[1])))
        for block in t.h:
            x = block(x)
        logits = self.lm_head(t.ln_f(x))
        shift = self.f.get("shift", 0)
        if shift < 0:
            targets = idx
        else:
            targets = torch.cat([targets[:, shift:], torch.full_like(targets[:, :shift], -1)], 1)
        reduction = self.f.get("reduction", "mean")
        flat = logits.flatten(0, 1), targets.flatten()
        return logits, F.cross_entropy(*flat, ignore_index=-1, reduction=reduction)

    @torch.no_grad()
    def load(self, params):
        """Take numgpt's parameters; returns the module."""
        own = dict(self.named_parameters())
        for name, value in params.items():
            is_linear = name.startswith("h.") and value.ndim == 2
            is_transposed = self.f.get("transposed") and name.endswith("attn.c_proj.weight")
            value = torch.from_numpy(value.T if is_linear and not is_transposed else value)
            own[f"transformer.{name}"][: len(value)].copy_(value)
        if self.f.get("untied"):
            self.lm_head.weight.copy_(self.transformer.wte.weight)
        return self
