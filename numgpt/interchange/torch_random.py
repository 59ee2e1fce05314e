"""PyTorch's random stream on the CPU, in NumPy: the numbers that a program draws after torch.manual_seed.

PyTorch is not needed. Both libraries draw from the Mersenne twister (Matsumoto and Nishimura 1998), so the
words are the same bits. What is made of the words follows PyTorch's documented behaviour and was compared
with version 2.13: integers and uniforms are equal; normals agree to a few units in the last place, since
PyTorch has its own logarithm and cosine.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arguments import Count, DType, checked
from ..errors import InputError

Shape = Count | Sequence[Count]


class Generator:
    """The generator after torch.manual_seed(seed); each draw advances it as PyTorch's does.

    Examples
    --------
    >>> from numgpt import torch_random
    >>> torch_random.Generator(0).randint(10, 5)
    array([4, 9, 3, 0, 3])
    """

    @checked
    def __init__(self, seed: Count) -> None:
        self._twister = np.random.RandomState(seed % 2**32)
        self._spare: float | None = None  # the second of a pair of normals, for the next draw

    @checked
    def words(self, n: Count) -> NDArray[Any]:
        """The next n words of 32 bits.  → (n,) uint32"""
        return self._twister.randint(0, 2**32, size=n, dtype=np.uint32)

    @checked
    def skip(self, n: Count) -> None:
        """Skip n words, as if they had been drawn."""
        for start in range(0, n, 1 << 20):
            self.words(min(1 << 20, n - start))

    @checked
    def uniform(
        self, shape: Shape = (), low: float = 0.0, high: float = 1.0, dtype: DType = "float32"
    ) -> NDArray[Any]:
        """Tensor.uniform_(low, high): numbers from low to below high; one word each, two in float64."""
        return self._uniform(math.prod(_shape(shape)), dtype, low, high).reshape(shape)

    @checked
    def normal(
        self, shape: Shape = (), mean: float = 0.0, std: float = 1.0, dtype: DType = "float32"
    ) -> NDArray[Any]:
        """Tensor.normal_(mean, std) of a contiguous tensor, by the method of Box and Muller (1958).

            r = √(−2 ln u₁)   θ = 2π u₂   r cos θ   r sin θ

        From 16 numbers on they are made in blocks of 16, from 16 uniforms: 8 cosines, then 8 sines. If the
        last block is not full, the last 16 numbers are drawn again. Fewer than 16 are made one by one in
        float64; the sine is kept for the next one.
        """
        size = math.prod(_shape(shape))
        if size < 16:
            values = np.array([self._one() * std + mean for _ in range(size)], np.float64)
            return values.astype(dtype).reshape(shape)
        u = self._uniform(size, dtype)
        whole = size // 16 * 16
        u[:whole] = _box_muller(u[:whole], mean, std)
        if size % 16:
            u[-16:] = _box_muller(self._uniform(16, dtype), mean, std)
        return u.reshape(shape)

    @checked
    def randint(self, high: int, shape: Shape = (), low: int = 0) -> NDArray[Any]:
        """torch.randint(low, high, shape): integers from low to below high.  → int64

        The remainder of a word modulo the number of choices; of two words if there are 2²⁸ choices or more.
        """
        choices, size = high - low, math.prod(_shape(shape))
        if not 0 < choices < 2**63:
            raise InputError(
                f"torch_random: randint from {low} to below {high}, expected at least one integer between"
                " them and fewer than 2⁶³"
            )
        words = self._double_words(size) if choices >= 2**28 else self.words(size).astype(np.uint64)
        return ((words % np.uint64(choices)).astype(np.int64) + low).reshape(shape)

    @checked
    def permutation(self, n: Count) -> NDArray[Any]:
        """torch.randperm(n): the numbers 0 … n − 1 in random order.  → (n,) int64"""
        order = np.arange(n)
        for i, word in enumerate(self.words(max(0, n - 1))):
            j = i + int(word) % (n - i)
            order[i], order[j] = order[j], order[i]
        return order

    def _double_words(self, n: int) -> NDArray[Any]:
        """Words of 64 bits; the first of two words drawn is the upper half."""
        pairs = self.words(2 * n).reshape(n, 2).astype(np.uint64)
        return pairs[:, 0] << np.uint64(32) | pairs[:, 1]

    def _uniform(self, n: int, dtype: DType, low: float = 0.0, high: float = 1.0) -> NDArray[Any]:
        dtype = np.dtype(dtype)
        number: Any = dtype.type
        u: NDArray[Any]
        if dtype == np.float32:
            u = (self.words(n) & np.uint32(2**24 - 1)).astype(np.float32) * np.float32(2**-24)
        elif dtype == np.float64:
            u = (self._double_words(n) & np.uint64(2**53 - 1)) * 2.0**-53
        else:
            raise InputError(f"torch_random: cannot draw {dtype}, expected float32 or float64")
        return u * number(high - low) + number(low)

    def _one(self) -> float:
        """One standard normal number in float64."""
        if self._spare is not None:
            value, self._spare = self._spare, None
            return value
        u1, u2 = self._uniform(2, np.float64)
        r, theta = math.sqrt(-2 * math.log1p(-u2)), 2 * math.pi * u1
        self._spare = r * math.sin(theta)
        return r * math.cos(theta)


def _shape(shape: Shape) -> tuple[int, ...]:
    return (int(shape),) if isinstance(shape, (int, np.integer)) else tuple(shape)


def _box_muller(u: NDArray[Any], mean: float, std: float) -> NDArray[Any]:
    """Normal numbers (n,) from uniforms (n,), n a multiple of 16."""
    dtype: Any = u.dtype.type
    u = u.reshape(-1, 16)
    r = np.sqrt(dtype(-2) * np.log(1 - u[:, :8], dtype=np.float64).astype(dtype))
    # The product is rounded to u's dtype, as PyTorch does: near a zero of the cosine it shows.
    theta = dtype(2 * math.pi) * u[:, 8:]
    normals = np.concatenate([r * np.cos(theta), r * np.sin(theta)], axis=1).reshape(-1)
    return normals * dtype(std) + dtype(mean)
