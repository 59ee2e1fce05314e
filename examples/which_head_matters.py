"""Which attention head matters most? Each is switched off in flight, and the gradient is asked the same."""

import numpy as np

import numgpt

# A model that has to copy: the second half of each text repeats the first.
config = numgpt.Config(vocab_size=8, block_size=16, n_layer=2, n_head=4, n_embd=32, bias=False)
model = numgpt.GPT(config, seed=0)
optimizer = numgpt.AdamW(model, weight_decay=0.0)


def batch(seed, size):
    """Tokens and targets, of which those in the first half do not count: nobody could know them."""
    half = np.random.default_rng(seed).integers(0, 8, (size, 9))
    text = np.concatenate([half, half], axis=1)[:, :17]
    targets = text[:, 1:].copy()
    targets[:, :8] = -1
    return text[:, :-1], targets


for step in range(600):
    loss, grads = model.loss_and_grads(*batch(step, 32))
    optimizer.step(grads, lr=numgpt.learning_rate(step, numgpt.Training(steps=600, lr=3e-3, warmup=50)))

tokens, targets = batch(10**6, 64)
plain = model.record(tokens, targets)
print(f"loss after training {plain.value['loss']:.4f}, of a blind guess {np.log(8):.4f}")
D = config.n_embd // config.n_head
effects = {}
for layer in range(config.n_layer):
    for head in range(config.n_head):
        name = f"h.{layer}.attn.heads"
        mine = np.zeros(config.n_embd, "float32")
        mine[head * D : (head + 1) * D] = 1
        off = model.record(tokens, targets, edit={name: lambda a, mine=mine: a * (1 - mine)})
        effects[layer, head] = off.value["loss"] - plain.value["loss"]
        estimate = -(plain.grad[name] * plain.value[name] * mine).sum()
        print(
            f"block {layer}, head {head}: without it the loss rises by {effects[layer, head]:7.4f}"
            f" (first-order estimate {estimate:7.4f})"
        )
most = max(effects, key=effects.get)
assert plain.value["loss"] < 0.5 < effects[most]
print(
    f"Head {most[1]} of block {most[0]} matters most. The first-order estimates are all near 0: at a minimum"
    " the gradient cannot tell."
)
