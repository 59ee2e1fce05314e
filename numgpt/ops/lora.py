"""A linear map with a small correction beside it, which is all that is learned: LoRA."""

from .linear import linear_backward, linear_forward
from .op import Op


def lora_linear_forward(x, weight, bias, lora_a, lora_b, *, factor=1.0):
    """A linear map that a product of two thin matrices corrects.

        y = x W + b + s (x A) B        s = factor

    A is (I, R) and B (R, O), with a rank R far below I and O; s is α/R, or α/√R (rsLoRA). With B = 0, as it
    is to begin with, y is the base's to the bit. W + s A B is never formed: in float32 it would change W.
    x (..., I) → y (..., O).  Sources: Hu et al. 2021; Kalajdzievski 2023.
    """
    y, _ = linear_forward(x, weight, bias)
    low = x @ lora_a
    return y + factor * (low @ lora_b), (x, weight, bias is not None, lora_a, lora_b, low, factor)


def lora_linear_backward(dy, saved, wanted=(True, True, True, True)):
    """Gradients of lora_linear_forward by x, weight, bias, lora_a and lora_b; wanted: which of the last four.

    Two linear maps add up, x W + b and s (x A) B. The second with u = x A and du = s dy Bᵀ:

        dx = dy Wᵀ + du Aᵀ                 because x goes through both
        dA = xᵀ du                         because u = x A, as in linear_backward
        dB = s uᵀ dy                       because y has s u B
        dW = xᵀ dy,  db = Σ_n dy_n         the base's, which nobody wants of one that is frozen

    In words: with B = 0 A gets no gradient, and B does; with A = B = 0 neither would, ever.
    """
    x, weight, has_bias, lora_a, lora_b, low, factor = saved
    rows, drows = x.reshape(-1, x.shape[-1]), dy.reshape(-1, dy.shape[-1])  # (N, I), (N, O)
    dx, dweight, dbias = linear_backward(dy, (x, weight, has_bias), wanted[:2])
    dlow = factor * (dy @ lora_b.swapaxes(0, 1))
    dlora_a = rows.swapaxes(0, 1) @ dlow.reshape(-1, low.shape[-1]) if wanted[2] else None
    dlora_b = factor * (low.reshape(-1, low.shape[-1]).swapaxes(0, 1) @ drows) if wanted[3] else None
    return dx + dlow @ lora_a.swapaxes(0, 1), dweight, dbias, dlora_a, dlora_b


lora_linear = Op(
    "...I, IO, O?, IR, RO -> ...O",
    lora_linear_forward,
    lora_linear_backward,
    parameters=("weight", "bias", "lora_a", "lora_b"),
    variants={"factor": {"factor": 0.5}},
    saves="x ...R",
)
