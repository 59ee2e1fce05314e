"""Twin of the feed-forward on a GPU: the bias goes with the activation, so that what lies between the two
products is read and written once.

Used where nothing inside the feed-forward is kept, edited or dropped. It saves what the ops do, with the bits
that they give, but for
the gradient of the first bias: that is summed by tiles of rows in double, in a fixed order.
"""

from ..ops import linear
from ..ops.activations_cupy import bias_gelu, bias_gelu_backward

TANH_FORM = {"gelu": False, "gelu_tanh": True}
PARAMETERS = ("c_fc.weight", "c_fc.bias", "c_proj.weight", "c_proj.bias")


def suits(r, x):
    """Whether the twin is made for this feed-forward: without a bias, or with another activation, there is
    nothing to put together.

    One parameter alone may be complex, where a law asks which gradient is wrong.
    """
    return (
        r.config.bias
        and r.config.activation in TANH_FORM
        and all(r.parameter(name).dtype == x.dtype for name in PARAMETERS)
    )


def ffn_forward(r, x):
    """Twin of transformer.ffn_forward; returns (y, saved)."""
    import cupy as cp

    weight, bias, weight_proj, bias_proj = map(r.parameter, PARAMETERS)
    linear.check((x, weight, bias), {})
    h = cp.ascontiguousarray(x @ weight)
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
