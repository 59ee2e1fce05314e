"""How does the loss bend? Curvature, the sharpest direction, the gradient's noise; then PyTorch's answer."""

import numpy as np

import numgpt
from numgpt import calculus

# A small GPT after some steps on texts that count upwards, now and then with a slip.
config = numgpt.Config(vocab_size=16, block_size=12, n_layer=2, n_head=2, n_embd=16)
model = numgpt.GPT(config, seed=0, dtype="float64")
rng = np.random.default_rng(0)


def batch(rows):
    text = (rng.integers(0, 16, (rows, 1)) + np.arange(13)) % 16
    text = np.where(rng.random(text.shape) < 0.1, rng.integers(0, 16, text.shape), text)
    return text[:, :-1], text[:, 1:]


optimizer = numgpt.AdamW(model, weight_decay=0.0)
for _step in range(60):
    loss, grads = model.loss_and_grads(*batch(16))
    optimizer.step(grads, lr=3e-3)

tokens, targets = batch(24)
loss, grads = model.loss_and_grads(tokens, targets)
slope = np.linalg.norm(grads.flat)
v = grads.flat / slope
bend = v @ calculus.hvp(model, tokens, targets, v).flat
print(f"loss {loss:.4f}; along the gradient its slope is {slope:.4f} and its curvature ⟨v, Hv⟩ {bend:.4f}")
print(f"so to second order the loss is least after a step of length {slope / bend:.4f} against it")

top = calculus.top_eigenvalues(model, tokens, targets)
least = calculus.top_eigenvalues(model, tokens, targets, which="smallest")
for which, found in (("largest", top), ("smallest", least)):
    value, bound = found.values[0], found.bounds[0]
    print(f"{which} eigenvalue of the Hessian {value:.6f} ± {bound:.0e}, by {found.products} products")
print(f"the matrix itself, {model.n_params:,} × {model.n_params:,} numbers, is never formed")
gauss_newton = v @ calculus.gauss_newton(model, tokens, targets, v).flat
assert least.values[0] < 0 < gauss_newton
assert least.values[0] <= bend <= top.values[0]

noise = calculus.gradient_noise_scale(model, tokens, targets)
print(f"noise scale {noise.scale:.1f}: in a batch of so many examples, noise and gradient are of one size")
assert noise.scale > 0

try:
    import torch
    from torch.nn.functional import cross_entropy, gelu, layer_norm, scaled_dot_product_attention
except ModuleNotFoundError:
    print("PyTorch is not installed: the comparison with its double backward is skipped.")
    raise SystemExit from None


def written_out(q, k, v):
    """Attention in operations that autograd can differentiate twice."""
    hidden = torch.triu(torch.ones(q.shape[-2], q.shape[-2], dtype=torch.bool), 1)
    return (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).masked_fill(hidden, float("-inf")).softmax(-1) @ v


def fused(q, k, v):
    """Attention as PyTorch's models call it; on a CPU this takes the fused kernel unless told otherwise."""
    return scaled_dot_product_attention(q, k, v, is_causal=True)


def torch_hvp(attention, direction):
    """PyTorch's Hessian-vector product of the same model, by double backward."""
    p = {name: torch.from_numpy(a.copy()).requires_grad_() for name, a in model.params.items()}

    def affine(x, name):
        return x @ p[f"{name}.weight"] + p[f"{name}.bias"]

    def norm(x, name):
        weight, bias = p[f"{name}.weight"], p[f"{name}.bias"]
        return layer_norm(x, weight.shape, weight, bias, config.layer_norm_epsilon)

    x = p["wte.weight"][torch.from_numpy(tokens)] + p["wpe.weight"]
    for i in range(config.n_layer):
        qkv = affine(norm(x, f"h.{i}.ln_1"), f"h.{i}.attn.c_attn").split(config.n_embd, -1)
        y = attention(*(t.unflatten(-1, (config.n_head, -1)).transpose(1, 2) for t in qkv))
        x = x + affine(y.transpose(1, 2).flatten(2), f"h.{i}.attn.c_proj")
        h = affine(norm(x, f"h.{i}.ln_2"), f"h.{i}.mlp.c_fc")
        x = x + affine(gelu(h, approximate="tanh"), f"h.{i}.mlp.c_proj")
    logits = norm(x, "ln_f") @ p["wte.weight"].T
    loss = cross_entropy(logits.flatten(0, 1), torch.from_numpy(targets).flatten())
    grads = torch.autograd.grad(loss, list(p.values()), create_graph=True)
    slope = sum((g * torch.from_numpy(direction[name])).sum() for name, g in zip(p, grads))
    return dict(zip(p, torch.autograd.grad(slope, list(p.values()))))


direction = model.params.like()
direction.flat[:] = rng.standard_normal(model.n_params)
ours = calculus.hvp(model, tokens, targets, direction)
theirs = model.params.like()
for name, product in torch_hvp(written_out, direction).items():
    theirs[name] = product.numpy()
difference = np.linalg.norm(ours.flat - theirs.flat) / np.linalg.norm(theirs.flat)
version = f"PyTorch {torch.__version__}"
print(f"{version}, attention written out: Hv differs from ours by {difference:.1e} of its norm")
assert difference < 1e-13

try:
    torch_hvp(fused, direction)
except RuntimeError as error:
    reason = str(error).splitlines()[0]
    assert "is not implemented" in reason
    print(f"{version}, fused attention: RuntimeError: {reason}")
    print("Where attention is fused, PyTorch has no second derivative (pytorch #116350).")
    print("Ours is the backward, at a complex number.")
else:
    print("This PyTorch took an attention that it can differentiate twice, as its math kernel can.")
