"""How exact is the gradient? The complex step and finite differences answer along one direction."""

import numpy as np

import numgpt

config = numgpt.Config(vocab_size=65, block_size=16, n_layer=3, n_head=4, n_embd=32)
model = numgpt.GPT(config, seed=0, dtype="float64")
rng = np.random.default_rng(0)
tokens, targets = rng.integers(0, 65, (2, 4, 16))
direction = rng.standard_normal(model.n_params)

loss, grads = model.loss_and_grads(tokens, targets)
ours = grads.flat @ direction


def loss_at(dtype, shift):
    """The loss with all parameters moved by shift along the direction."""
    moved = model.astype(dtype)
    moved.params.flat += shift * direction
    return moved.loss(tokens, targets)


complex_step = loss_at("complex128", 1e-30j).imag / 1e-30
differences = (loss_at("float64", 1e-6) - loss_at("float64", -1e-6)) / 2e-6

print(f"by hand             {ours:.16f}")
print(f"complex step        {complex_step:.16f}   relative difference {abs(ours / complex_step - 1):.1e}")
print(f"finite differences  {differences:.16f}   relative difference {abs(ours / differences - 1):.1e}")
assert abs(ours / complex_step - 1) < 1e-12
assert 1e-13 < abs(ours / differences - 1) < 1e-5
print("The gradient is exact to rounding; it is the finite differences that err.")
