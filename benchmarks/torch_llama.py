"""PyTorch's side of the LLaMA shape: plain, over numgpt's names and layouts, and transformers' Llama."""

import tempfile

import torch
from torch import nn
from torch.nn import functional as F


class Block(nn.Module):
    """A pre-norm block with rotary positions, key heads that several query heads read, and SwiGLU."""

    def __init__(self, c):
        super().__init__()
        self.heads = c.n_head, c.kv_heads, c.head_size
        H, K, D = self.heads
        self.ln_1 = nn.RMSNorm(c.n_embd, c.layer_norm_epsilon)
        self.c_attn = nn.Linear(c.n_embd, c.qkv_width, bias=False)
        self.attn_proj = nn.Linear(H * D, c.n_embd, bias=False)
        self.ln_2 = nn.RMSNorm(c.n_embd, c.layer_norm_epsilon)
        self.c_fc = nn.Linear(c.n_embd, 2 * c.ffn_width, bias=False)
        self.mlp_proj = nn.Linear(c.ffn_width, c.n_embd, bias=False)

    def forward(self, x, cos, sin):
        B, T, _ = x.shape
        H, K, D = self.heads
        qkv = self.c_attn(self.ln_1(x)).view(B, T, H + 2 * K, D).transpose(1, 2)
        q, k, v = qkv.split((H, K, K), dim=1)
        q, k = turned(q, cos, sin), turned(k, cos, sin)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        x = x + self.attn_proj(y.transpose(1, 2).reshape(B, T, H * D))
        gate, up = self.c_fc(self.ln_2(x)).chunk(2, dim=-1)
        return x + self.mlp_proj(F.silu(gate) * up)


def turned(x, cos, sin):
    """Queries or keys, each pair of halves turned by its angle."""
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, a * sin + b * cos), dim=-1)


class LLaMA(nn.Module):
    """The whole model with a head of its own; forward returns the loss."""

    def __init__(self, c):
        super().__init__()
        self.wte = nn.Embedding(c.vocab_size, c.n_embd)
        self.blocks = nn.ModuleList(Block(c) for _ in range(c.n_layer))
        self.ln_f = nn.RMSNorm(c.n_embd, c.layer_norm_epsilon)
        self.lm_head = nn.Linear(c.n_embd, c.vocab_size, bias=False)
        R = c.rotary_size
        frequencies = c.rotary_base ** (-torch.arange(0, R, 2, dtype=torch.float64) / R)
        angles = torch.arange(c.block_size, dtype=torch.float64)[:, None] * frequencies
        self.register_buffer("cos", angles.cos().float())
        self.register_buffer("sin", angles.sin().float())

    def forward(self, tokens, targets):
        x, T = self.wte(tokens), tokens.shape[1]
        for block in self.blocks:
            x = block(x, self.cos[:T], self.sin[:T])
        logits = self.lm_head(self.ln_f(x))
        return F.cross_entropy(logits.view(-1, logits.shape[-1]), targets.view(-1))

    @torch.no_grad()
    def load(self, params):
        """Copy numgpt's parameters; its matrices are (in, out), nn.Linear's (out, in)."""
        ours = dict(self.named_parameters())
        for name, value in params.items():
            theirs = name.replace("h.", "blocks.", 1) if name.startswith("h.") else name
            theirs = theirs.replace("attn.c_proj", "attn_proj").replace("mlp.c_proj", "mlp_proj")
            theirs = theirs.replace("attn.c_attn", "c_attn").replace("mlp.c_fc", "c_fc")
            is_linear = name.startswith("h.") and value.ndim == 2
            ours[theirs].copy_(torch.from_numpy(value.T if is_linear else value))


class Transformers(nn.Module):
    """transformers' class with PyTorch's fused attention, read from the folder that numgpt writes.

    experts: how a mixture's are computed, "eager" one by one or "grouped_mm" in one product.
    """

    def __init__(self, model, experts=None):
        super().__init__()
        self.model = of_transformers(model).train()
        if experts is not None:
            self.model.set_experts_implementation(experts)

    def forward(self, tokens, targets):
        logits = self.model(input_ids=tokens, use_cache=False).logits
        return F.cross_entropy(logits.view(-1, logits.shape[-1]), targets.view(-1))


def of_transformers(model):
    """transformers' model with numgpt's parameters, read from the folder that numgpt writes."""
    from transformers import AutoModelForCausalLM

    with tempfile.TemporaryDirectory() as folder:
        model.save(folder, layout="hf")
        return AutoModelForCausalLM.from_pretrained(folder, attn_implementation="sdpa", dtype=torch.float32)
