"""PyTorch's side: a GPT as its users write it, with fused attention, over numgpt's names and layouts."""

import torch
from torch import nn
from torch.nn import functional as F


class Block(nn.Module):
    """A pre-norm block."""

    def __init__(self, c):
        super().__init__()
        C = c.n_embd
        self.n_head = c.n_head
        self.activation = "tanh" if c.activation == "gelu_tanh" else "none"
        self.ln_1 = nn.LayerNorm(C, bias=c.bias)
        self.c_attn = nn.Linear(C, 3 * C, bias=c.bias)
        self.attn_proj = nn.Linear(C, C, bias=c.bias)
        self.ln_2 = nn.LayerNorm(C, bias=c.bias)
        self.c_fc = nn.Linear(C, 4 * C, bias=c.bias)
        self.mlp_proj = nn.Linear(4 * C, C, bias=c.bias)

    def forward(self, x, cache=None, start=0):
        B, T, C = x.shape
        q, k, v = (
            a.view(B, T, self.n_head, C // self.n_head).transpose(1, 2)
            for a in self.c_attn(self.ln_1(x)).split(C, dim=2)
        )
        if cache is not None:
            cache[0][:, :, start : start + T] = k
            cache[1][:, :, start : start + T] = v
            k, v = cache[0][:, :, : start + T], cache[1][:, :, : start + T]
        y = F.scaled_dot_product_attention(q, k, v, is_causal=T > 1)
        x = x + self.attn_proj(y.transpose(1, 2).reshape(B, T, C))
        return x + self.mlp_proj(F.gelu(self.c_fc(self.ln_2(x)), approximate=self.activation))


class GPT(nn.Module):
    """The whole model with a tied head; forward returns the loss."""

    def __init__(self, c):
        super().__init__()
        self.wte = nn.Embedding(c.vocab_size, c.n_embd)
        self.wpe = nn.Embedding(c.block_size, c.n_embd)
        self.blocks = nn.ModuleList(Block(c) for _ in range(c.n_layer))
        self.ln_f = nn.LayerNorm(c.n_embd, bias=c.bias)

    def forward(self, tokens, targets):
        x = self.wte(tokens) + self.wpe(torch.arange(tokens.shape[1], device=tokens.device))
        for block in self.blocks:
            x = block(x)
        logits = F.linear(self.ln_f(x), self.wte.weight)
        return F.cross_entropy(logits.view(-1, logits.shape[-1]), targets.view(-1))

    def next_logits(self, tokens, caches, start):
        """Logits (B, V) after tokens (B, T), which follow the `start` tokens that the caches hold.

        Either T is 1 or start is 0.
        """
        x = self.wte(tokens) + self.wpe(torch.arange(start, start + tokens.shape[1], device=tokens.device))
        for block, cache in zip(self.blocks, caches):
            x = block(x, cache, start)
        return self.logits(self.ln_f(x[:, -1]))

    def logits(self, x):
        """What the head gives, whose rows are those of the embedding."""
        return F.linear(x, self.wte.weight)

    @torch.inference_mode()
    def generate(self, tokens, new):
        """Continue tokens (B, T) greedily → (B, T + new) in the host's memory.

        Each choice stays on the device until the end.
        """
        B, T = tokens.shape
        H, C = self.blocks[0].n_head, self.wte.weight.shape[1]
        caches = [self.wte.weight.new_empty(2, B, H, T + new, C // H) for _ in self.blocks]
        parts, start = [tokens], 0
        for _ in range(new):
            logits = self.next_logits(parts[-1], caches, start)
            start += parts[-1].shape[1]
            parts.append(logits.argmax(-1, keepdim=True))
        return torch.cat(parts, dim=1).cpu()

    @torch.no_grad()
    def load(self, params):
        """Copy numgpt's parameters; its matrices are (in, out), nn.Linear's (out, in)."""
        names = {
            "attn.c_attn": "c_attn",
            "attn.c_proj": "attn_proj",
            "mlp.c_fc": "c_fc",
            "mlp.c_proj": "mlp_proj",
        }
        ours = dict(self.named_parameters())
        for name, value in params.items():
            theirs = name.replace("h.", "blocks.", 1) if name.startswith("h.") else name
            for a, b in names.items():
                theirs = theirs.replace(a, b)
            linear = name.startswith("h.") and value.ndim == 2
            ours[theirs].copy_(torch.from_numpy(value.T if linear else value))


def optimizer(model, fused):
    """AdamW as nanoGPT sets it, with decay on matrices only."""
    params = list(model.parameters())
    groups = [
        {"params": [p for p in params if p.dim() >= 2], "weight_decay": 0.1},
        {"params": [p for p in params if p.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=1e-4, betas=(0.9, 0.99), **({"fused": True} if fused else {}))


def step(model, optimizer, tokens, targets, clip=1.0, bf16=False):
    """One training step on a batch in the host's memory; on a GPU nothing waits for the loss returned.

    bf16: the forward runs under PyTorch's autocast, which decides what is computed in bfloat16.
    """
    place = next(model.parameters()).device
    tokens, targets = (a.to(place, non_blocking=True) for a in (tokens, targets))
    optimizer.zero_grad(set_to_none=True)
    with torch.autocast(place.type, torch.bfloat16, enabled=bf16):
        loss = model(tokens, targets)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
    optimizer.step()
    return loss.detach()


def exact():
    """Float32 products with factors of 24 bits, not TF32's 11, on every GPU."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.set_float32_matmul_precision("highest")
