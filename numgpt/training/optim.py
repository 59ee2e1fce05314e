"""AdamW with clipping over the flat buffer, and the schedules of its learning rate."""

import math

import numpy as np

from .. import engine
from ..architecture.parameters import Flat
from ..errors import InputError


class AdamW:
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019), on matrices only.

    For step t, with gradient g clipped to a global norm of at most clip:

        m ← β₁ m + (1 − β₁) g          m̂ = m / (1 − β₁ᵗ)
        v ← β₂ v + (1 − β₂) g²         v̂ = v / (1 − β₂ᵗ)
        w ← w − lr λ w                 matrices only; norms and biases are not pulled to 0
        w ← w − lr m̂ / (√v̂ + eps)

    model: a GPT, or the Flat of its parameters. clip 0 or None: no clipping.
    """

    def __init__(self, model, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.1, clip=1.0):
        self.params = getattr(model, "params", model)
        if not all(0 <= beta < 1 for beta in betas) or not eps > 0:
            raise InputError(
                f"AdamW: betas are {betas} and eps is {eps}, expected betas from 0 to below 1 and a"
                " positive eps"
            )
        if self.params.dtype.kind == "c":
            raise InputError(
                f"AdamW: the parameters are {self.params.dtype}, expected real ones: complex models are for"
                " derivatives"
            )
        self.betas, self.eps, self.weight_decay, self.clip = betas, eps, weight_decay, clip
        self.m, self.v, self.steps = self.params.like(), self.params.like(), 0

    def norm(self, grads):
        """The global norm of the gradients, on the GPU () where these lie there; not finite where one of them
        is not.
        """
        g = self._flat(grads)
        return engine.twin(global_norm, g)(g)

    def step(self, grads, lr, norm=None):
        """Update the parameters in place; returns the gradient's norm before clipping.

        grads: mapping name -> array, as from loss_and_grads. norm: their global norm, where it is known.
        """
        g = self._flat(grads)
        norm = engine.twin(global_norm, g)(g) if norm is None else norm
        clip = _factor(norm, self.clip, g.dtype) if self.clip else 1.0
        self.steps += 1
        w, decayed = self.params.flat, self.params.decayed.size
        engine.twin(adamw, w)(
            w,
            g,
            self.m.flat,
            self.v.flat,
            decayed,
            self.betas,
            self.eps,
            self.weight_decay,
            clip,
            lr,
            self.steps,
        )
        return norm

    def _flat(self, grads):
        if isinstance(grads, Flat) and grads.shapes == self.params.shapes:
            return grads.flat
        if set(grads) != set(self.params):
            odd = sorted(set(grads) ^ set(self.params))
            raise InputError(
                f"AdamW: the gradients' names differ from the parameters' at {', '.join(odd[:3])}, expected"
                " the same names"
            )
        packed = self.params.like()
        for name, grad in grads.items():
            packed[name] = grad
        return packed.flat


def _factor(norm, clip, dtype):
    """What gradients of a norm are scaled by; on the GPU where the norm lies there, so that nothing waits for
    it.
    """
    if engine.on_gpu(norm):
        return (clip / np.fmax(norm, clip)).astype(dtype)  # a norm of NaN scales nothing, as on the host
    return clip / norm if norm > clip else 1.0


def adamw(w, g, m, v, decayed, betas, eps, weight_decay, clip, lr, t):
    """Step t = 1, 2, … of AdamW in place on w, m and v (N); the first entries, as many as decayed, are pulled
    to 0.

    The equations are those of AdamW; clip is what the gradient g is scaled by, a number or, on the GPU, an
    array () of w's dtype.
    """
    beta1, beta2 = betas
    if engine.on_gpu(clip) or clip != 1:
        g = g * clip
    m *= beta1
    m += (1 - beta1) * g
    v *= beta2
    v += (1 - beta2) * g * g
    w[:decayed] *= 1 - lr * weight_decay
    w -= m / (np.sqrt(v / (1 - beta2**t)) + eps) * (lr / (1 - beta1**t))


def global_norm(flat):
    """√Σ g² over a flat buffer, added up in float64 in blocks of a fixed size.  (N,) → float, on the GPU ()"""
    blocks = (flat[i : i + 65536].astype(np.float64) for i in range(0, len(flat), 65536))
    if engine.on_gpu(flat):
        return np.sqrt(sum(b @ b for b in blocks))
    return math.sqrt(sum(float(b @ b) for b in blocks))


def learning_rate(step, training):
    """The learning rate of step 0, 1, …: linear warm-up, then cosine, linear or constant.

    warm-up      lr (step + 1) / (warmup + 1)
    after it     min_lr + (lr − min_lr) f(x),  x from 0 at the warm-up's end to 1 at the end, after the last step
                 f = ½ (1 + cos πx)  or  1 − x  or  1
    """
    if step < training.warmup:
        return training.lr * (step + 1) / (training.warmup + 1)
    x = min(1.0, (step - training.warmup) / max(1, training.steps - training.warmup))
    fall = {"cosine": 0.5 * (1 + math.cos(math.pi * x)), "linear": 1 - x, "constant": 1.0}[training.schedule]
    return training.final_lr + (training.lr - training.final_lr) * fall
