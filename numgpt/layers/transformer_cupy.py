"""Twin of the feed-forward on a GPU: one kernel adds the bias and applies the activation.

So what lies between the two products is read and written once. Used where nothing inside the feed-forward is
kept, edited or dropped. It saves what the ops save and gives their bits, but for the gradient of the first
bias: that is summed by tiles of rows in double, in a fixed order.
"""

from ..engine.precision import FORMATS, product
from ..ops import linear
from ..ops.activations_cupy import bias_gelu, bias_gelu_backward
from .known import ANY, beyond

PRECISIONS = FORMATS  # in which products can be computed here
TANH_FORM = {"gelu": False, "gelu_tanh": True}  # the activations that bias_gelu has, and its flag for each
PARAMETERS = ("c_fc.weight", "c_fc.bias", "c_proj.weight", "c_proj.bias")

# The settings that this twin computes; with any other, or another value, the ops run one by one.
KNOWN = {
    "vocab_size": ANY,
    "block_size": ANY,
    "n_layer": ANY,
    "n_head": ANY,
    "n_embd": ANY,
    "n_inner": ANY,
    "bias": (True,),  # without one there is nothing to put together
    "tied": ANY,
    "activation": TANH_FORM,
    "norm_position": ANY,
    "dropout": ANY,  # where it drops, the Record asks for no twin
    "layer_norm_epsilon": ANY,
}


def suits(r, x):
    """Whether the twin is made for this feed-forward and input.

    Where a law asks which gradient is wrong, one parameter alone is complex, and a rounded matrix has another
    name: then the ops run.
    """
    arrays = [r.params.get(r.scope + name) for name in PARAMETERS]
    return beyond(r.config, KNOWN) is None and all(a is not None and a.dtype == x.dtype for a in arrays)


def ffn_forward(r, x):
    """Twin of transformer.ffn_forward; returns (y, saved)."""
    import cupy as cp

    weight, bias, weight_proj, bias_proj = map(r.parameter, PARAMETERS)
    linear.check((x, weight, bias), {})
    h = cp.ascontiguousarray(product(x, weight))
    a = bias_gelu(h, bias, TANH_FORM[r.config.activation])
    linear.check((a, weight_proj, bias_proj), {})
    return linear.forward(a, weight_proj, bias_proj)[0], (x, h, a)


def ffn_backward(r, dy, saved):
    """Twin of transformer.ffn_backward."""
    import cupy as cp

    x, h, a = saved
    weight, _, weight_proj, _ = map(r.parameter, PARAMETERS)
    da, dweight, dbias = linear.backward(dy, (a, weight_proj, True))
    r.put("c_proj.weight", dweight)
    r.put("c_proj.bias", dbias)
    with r.place("c_fc.bias") as (dbias, add):
        dh = bias_gelu_backward(cp.ascontiguousarray(da), h, TANH_FORM[r.config.activation], dbias, add)
    dx, dweight, _ = linear.backward(dh, (x, weight, False))
    r.put("c_fc.weight", dweight)
    return dx
