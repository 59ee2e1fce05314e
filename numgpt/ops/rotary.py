"""Rotary positions: queries and keys turned by an angle that grows with their position."""

import functools

import numpy as np

from .. import engine
from ..errors import InputError
from .op import Op, expect_one_each
from .saving import blank
from .scalings import HOST, SCALINGS, Rotary, checked_scaling, depends_on_length


def rotary_forward(qkv, *, n_head, n_kv_head=None, base=1e4, dim=None, scaling=None, start=0, positions=None):
    """Packed queries and keys, each head turned by its position; values as they are.

    The first R features of a head are R/2 pairs (a_i, b_i), a the first half and b the second:

        θ_i = t f_i        f_i = base^(−2i/R), t the position
        a'_i = a_i cos θ_i − b_i sin θ_i
        b'_i = a_i sin θ_i + b_i cos θ_i

    so that ⟨q'_t, k'_s⟩ depends on t − s alone. The other D − R features stay.

    n_head: H = KG query heads; n_kv_head: K key heads, as many unless given.
    dim: R, an even number up to D; the largest unless given. scaling: a kind and its numbers, as in SCALINGS.
    start: the position of the first of the T vectors; or positions: integers (..., T), of each.
    qkv (..., T, (H + 2K)D) = [q | k | v] → the same.  Source: Su et al. 2021, in the halves of GPT-NeoX.
    """
    angles = angles_of(qkv, n_head, n_kv_head, base, dim, scaling, start, positions)
    return turned(qkv, *angles), angles


def rotary_backward(dy, saved):
    """Gradient of rotary_forward with respect to qkv.

        da = da' cos θ + db' sin θ        because a acts on a' by cos θ and on b' by sin θ
        db = −da' sin θ + db' cos θ       because b acts on a' by −sin θ and on b' by cos θ

    In words: what was turned by θ is turned back by −θ; a size of cos and sin multiplies once more.
    """
    cos, sin, heads, D = saved
    return (turned(dy, cos, -sin, heads, D),)


def angles_of(qkv, n_head, n_kv_head, base, dim, scaling, start, positions):
    """cos and sin (..., T, R/2) by which the first heads of qkv turn, how many there are, and their size."""
    heads = n_head + (n_head if n_kv_head is None else n_kv_head)
    D = qkv.shape[-1] // (2 * heads - n_head)
    R = D - D % 2 if dim is None else dim
    if base <= 1:
        raise InputError(f"rotary: base is {base}, expected more than 1")
    if R % 2 or R > D:
        raise InputError(f"rotary: dim is {dim}, expected an even number up to the size of a head, {D}")
    return *rotations(qkv, R, base, scaling, start, positions), heads, D


def turned(x, cos, sin, heads, D):
    """x (..., T, ND), its first heads turned by the angles of cos and sin (..., T, R/2)."""
    half = cos.shape[-1]
    shape = x.shape
    x = x.reshape(*shape[:-1], shape[-1] // D, D)  # (..., T, N, D)
    cos, sin = cos[..., None, :], sin[..., None, :]  # (..., T, 1, R/2)
    a, b = x[..., :heads, :half], x[..., :heads, half : 2 * half]
    y = x.copy()
    y[..., :heads, :half] = a * cos - b * sin
    y[..., :heads, half : 2 * half] = a * sin + b * cos
    return y.reshape(shape)


def rotations(x, R, base, scaling, start, positions):
    """cos and sin (..., T, R/2) of the angles at the positions of x (..., T, C), in x's type and beside it.

    They are found in float64: in float32 an angle errs by 2e-5 at position 1,000, and by 2e-3 at 131,072.
    """
    scaling = checked_scaling(scaling, R)
    if positions is None:
        key = None if scaling is None else tuple(scaling.items())
        cos, sin = _table(int(start), x.shape[-2], R, float(base), key, x.real.dtype)
    else:
        expect_one_each("rotary", positions, x)
        n = 1 + int(np.max(engine.home(positions), initial=0)) if depends_on_length(scaling) else 1
        cos, sin = _cos_and_sin(positions, *frequencies(R, base, scaling, n), x.real.dtype)
        return engine.beside(cos, x), engine.beside(sin, x)
    return engine.told_once(cos, x), engine.told_once(sin, x)


def shift_angles(x, shift, R, base, scaling):
    """cos and sin (1, R/2) by which a vector turns that moves by so many positions, in x's type."""
    f, _ = frequencies(R, base, scaling)
    angles = _cos_and_sin(np.array([shift], like=HOST), f, 1.0, x.real.dtype)
    return tuple(engine.beside(angle, x) for angle in angles)


def frequencies(R, base=1e4, scaling=None, n=1):
    """f (R/2,) in radians a position, and the size of cos and sin; n: how many positions the text has."""
    scaling = checked_scaling(scaling, R)
    rotary = Rotary(R, float(base), n)
    if scaling is None:
        return rotary.frequencies(), 1.0
    return SCALINGS[scaling.pop("kind")](rotary, **scaling)


@functools.lru_cache(maxsize=16)  # all blocks ask for the same
def _table(start, T, R, base, scaling, dtype):
    """cos and sin (T, R/2) from a position on."""
    of_scaling = None if scaling is None else dict(scaling)
    found = frequencies(R, base, of_scaling, start + T)
    tables = _cos_and_sin(np.arange(start, start + T, like=HOST), *found, dtype)
    for table in tables:
        table.flags.writeable = False
    return tables


def _cos_and_sin(positions, f, size, dtype):
    """size cos and size sin of the angles at integer positions, in a type."""
    angles = positions[..., None] * engine.beside(f, positions)
    return (np.cos(angles) * size).astype(dtype), (np.sin(angles) * size).astype(dtype)


def _saved_tables(arrays, options, y):
    """cos and sin: one table each for all layers that turn alike."""
    (qkv,), positions = arrays, options.get("positions")
    H, K = options["n_head"], options.get("n_kv_head") or options["n_head"]
    D = qkv.shape[-1] // (H + 2 * K)
    R = options.get("dim") or D - D % 2
    scaling = options.get("scaling")
    places = (qkv.shape[-2],) if positions is None else positions.shape
    kind = (float(options.get("base", 1e4)), None if scaling is None else tuple(scaling.items()))
    return _blank_tables((*places, R // 2), y.dtype, options.get("start", 0), kind)


@functools.lru_cache(maxsize=64)
def _blank_tables(shape, dtype, start, kind):
    return blank(shape, dtype), blank(shape, dtype)


rotary = Op(
    "...T(KGD+2KD) -> ...T(KGD+2KD)",
    rotary_forward,
    rotary_backward,
    sizes={"n_head": "KG", "n_kv_head": "K"},
    variants={
        "two features": lambda rng, sizes: {"dim": 2} if sizes["D"] > 1 else {},
        "from position 7": {"start": 7},
        "positions of rows": lambda rng, sizes: {"positions": rng.integers(0, 100, sizes["T"])},
        "Llama 3": {"scaling": {"kind": "llama3", "factor": 8.0, "low": 1.0, "high": 4.0, "length": 20}},
        "YaRN": {"scaling": {"kind": "yarn", "factor": 4.0, "length": 20}, "base": 100.0},
        "dynamic": {"scaling": {"kind": "dynamic", "factor": 2.0, "length": 2}},
    },
    saves=_saved_tables,
)
