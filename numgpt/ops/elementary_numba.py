"""exp, tanh and erfc as polynomials that the compiler can turn into vector code; NaN stays NaN."""

import math

from numba import types
from numba.extending import intrinsic, overload

from ..engine.jit import kernel

LOG2E = math.log2(math.e)
SQRT_HALF = math.sqrt(0.5)


@intrinsic
def _bits_of(typing, x):
    """The bits of a float as an integer of its size."""
    return _same_bits({types.float32: types.int32, types.float64: types.int64}[x], x)


@intrinsic
def _float_of(typing, bits):
    """The float with the bits of an integer."""
    return _same_bits({types.int32: types.float32, types.int64: types.float64}[bits], bits)


def _same_bits(to, of):
    def codegen(context, builder, signature, args):
        return builder.bitcast(args[0], context.get_value_type(to))

    return to(of), codegen


@kernel
def row_max(x):
    """The largest entry. A NaN may be passed over: the sum of exponentials that follows has it.

    Floats are compared as integers, with all bits but the sign's turned over below 0: the compiler can turn
    that into vector code.
    """
    top = _ordered(_bits_of(x[0]))
    for i in range(len(x)):
        bits = _ordered(_bits_of(x[i]))
        top = bits if bits > top else top
    return _float_of(_ordered(top))


def _ordered(bits):
    """The bits of a float → an integer in the order of the floats; applied twice, the bits again."""


@overload(_ordered, inline="always")
def _ordered_overload(bits):
    kind, shift, mask = types.int64, 63, 0x7FFFFFFFFFFFFFFF
    if bits == types.int32:
        kind, shift, mask = types.int32, 31, 0x7FFFFFFF
    return lambda bits: kind(bits ^ ((bits >> shift) & mask))  # without kind Numba's integers grow to 64 bits


def _exp(x):
    """exp(x) of x's type."""


@overload(_exp, inline="always")
def _exp_overload(x):
    if x == types.float32:
        low, f, i, two52 = types.float32(-87.0), types.float32, types.int32, types.float32(12582912.0)
        log2e, ln2_hi, ln2_lo = f(LOG2E), f(0.693359375), f(-2.12194440e-4)
        c2, c3, c4, c5, c6, c7 = (f(1 / math.factorial(n)) for n in range(2, 8))

        def single(x):
            z = min(max(x, low), f(88.7228))
            n = (z * log2e + two52) - two52
            r = (z - n * ln2_hi) - n * ln2_lo
            p = r * r * (c2 + r * (c3 + r * (c4 + r * (c5 + r * (c6 + r * c7))))) + r + f(1)
            # 2ⁿ as 2 · 2ⁿ⁻¹: for n = 128 there is no float32 2ⁿ.
            y = p * f(2) * _float_of(i((i(n) + i(126)) << i(23)))
            y = f(0) if x < low else y
            y = f(math.inf) if x > f(88.7228) else y
            return y if x == x else x

        return single
    low, f, i, magic = -708.0, types.float64, types.int64, 6755399441055744.0
    ln2_hi, ln2_lo = 6.93147180369123816490e-01, 1.90821492927058770002e-10
    c2, c3, c4, c5, c6, c7, c8, c9, c10, c11, c12, c13 = (1 / math.factorial(n) for n in range(2, 14))

    def double(x):
        z = min(max(x, low), 709.782712893384)
        n = (z * LOG2E + magic) - magic
        r = (z - n * ln2_hi) - n * ln2_lo
        q = c8 + r * (c9 + r * (c10 + r * (c11 + r * (c12 + r * c13))))
        p = r * r * (c2 + r * (c3 + r * (c4 + r * (c5 + r * (c6 + r * (c7 + r * q)))))) + r + 1.0
        y = p * 2.0 * _float_of((i(n) + i(1022)) << i(52))
        y = 0.0 if x < low else y
        y = math.inf if x > 709.782712893384 else y
        return y if x == x else x

    return double


@kernel
def exp(x):
    """exp(x) in x's type; 0 below −87 (float32) or −708 (float64), ∞ where it overflows."""
    return _exp(x)


def _half_erfc(x, gauss):
    """½ erfc(x/√2) for x ≥ 0 and gauss = exp(−x²/2): Φ(−x)."""


@overload(_half_erfc, inline="always")
def _half_erfc_overload(x, gauss):
    # erfc(z) exp(z²) as a polynomial in t = (z − K)/(z + K), interpolated at Chebyshev's nodes; relative
    # error 4e-9 and 3e-15.
    if x == types.float32:
        f = types.float32

        def single(x, gauss):
            z = x * f(SQRT_HALF)
            t = (z - f(3)) / (z + f(3))
            p = f(5.3706684411736205e-05)
            p = p * t + f(2.4406856027781032e-05)
            p = p * t + f(-0.0005953980144113302)
            p = p * t + f(0.0007186958682723343)
            p = p * t + f(0.004270022734999657)
            p = p * t + f(-0.024394934996962547)
            p = p * t + f(0.07166559249162674)
            p = p * t + f(-0.1501157134771347)
            p = p * t + f(0.24560381472110748)
            p = p * t + f(-0.32623356580734253)
            p = p * t + f(0.17900115251541138)
            return f(0.5) * gauss * p

        return single

    def double(x, gauss):
        z = x * SQRT_HALF
        t = (z - 4.0) / (z + 4.0)
        p = 5.262302095318729e-10
        p = p * t + 1.7935593321352076e-09
        p = p * t - 3.2346841255893115e-09
        p = p * t - 1.5557549625430855e-08
        p = p * t + 2.6412000835830197e-08
        p = p * t + 9.677089064749815e-08
        p = p * t - 2.847849469353129e-07
        p = p * t - 4.0917446133830203e-07
        p = p * t + 2.9448216166764107e-06
        p = p * t - 1.9030200458583438e-06
        p = p * t - 2.2556105038511748e-05
        p = p * t + 7.898313074396784e-05
        p = p * t - 2.1761710323363274e-05
        p = p * t - 0.0007991268049276579
        p = p * t + 0.004060263622948028
        p = p * t - 0.012843946032288755
        p = p * t + 0.03129905651872367
        p = p * t - 0.06310781563968046
        p = p * t + 0.10896317739890521
        p = p * t - 0.16425781669731068
        p = p * t + 0.21871967891826485
        p = p * t - 0.25906804876017164
        p = p * t + 0.13699945762506138
        return 0.5 * gauss * p

    return double


@kernel
def half_erfc(x, gauss):
    """Φ(−x) = ½ erfc(x/√2) for x ≥ 0, given gauss = exp(−x²/2)."""
    return _half_erfc(x, gauss)


def _tanh(x):
    """tanh(x) of x's type, and exp(−2 |x|)."""


@overload(_tanh, inline="always")
def _tanh_overload(x):
    # Near 0 (1 − e)/(1 + e) cancels: there x plus x³ by a polynomial, in float64 by a quotient of two.
    # Source: Moshier's Cephes library.
    if x == types.float32:
        f = types.float32

        def single(x):
            a, z = abs(x), x * x
            e = exp(f(-2) * a)
            p = f(2.06390887954e-2) + z * f(-5.70498872745e-3)
            p = f(-3.33332819422e-1) + z * (f(1.33314422036e-1) + z * (f(-5.37397155531e-2) + z * p))
            far = f(1) - f(2) * e / (f(1) + e)
            return (x + x * z * p if a < f(0.625) else math.copysign(far, x)), e

        return single

    def double(x):
        a, z = abs(x), x * x
        e = exp(-2.0 * a)
        p = -1.61468768441708447952e3 + z * (-9.92877231001918586564e1 + z * -9.64399179425052238628e-1)
        q = 4.84406305325125486048e3 + z * (2.23548839060100448583e3 + z * (1.12811678491632931402e2 + z))
        far = 1.0 - 2.0 * e / (1.0 + e)
        return (x + x * z * (p / q) if a < 0.625 else math.copysign(far, x)), e

    return double


@kernel
def tanh(x):
    """tanh(x) in x's type, and exp(−2 |x|), by which its slope 4 e / (1 + e)² keeps its digits."""
    return _tanh(x)
