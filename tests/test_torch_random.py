"""PyTorch's random stream: the published values, and PyTorch itself where it is installed."""

import numpy as np
import pytest

from numgpt.errors import InputError
from numgpt.interchange.torch_random import Generator

# llm.c publishes these draws for the seed 137: words and normals in turn.
EIGHT = [
    0.7947664260864258,
    1.4369317293167114,
    -0.2292192131280899,
    0.47556325793266296,
    -0.6334410905838013,
    -0.5791953802108765,
    -0.0925704762339592,
    -0.8659197092056274,
]
SIXTEEN = [
    -1.2813878059387207,
    -2.646395683288574,
    -0.06569503247737885,
    0.2180829495191574,
    -0.46536165475845337,
    -0.33108410239219666,
    2.5485482215881348,
    0.10425379872322083,
    0.8460659980773926,
    0.9462448358535767,
    -0.2913765013217926,
    0.34313806891441345,
    -1.1186704635620117,
    -0.18305328488349915,
    -2.3153159618377686,
    0.3961987793445587,
]


def test_the_published_draws_come_out_in_their_order():
    g = Generator(137)
    assert g.words(5).tolist() == [4053805790, 2173880614, 380293709, 1237255315, 2986595568]
    assert np.abs(g.normal(8) / np.float32(EIGHT) - 1).max() < 2e-7
    assert g.words(1).tolist() == [2186503452]
    assert np.abs(g.normal(16) / np.float32(SIXTEEN) - 1).max() < 2e-7
    assert g.words(1).tolist() == [2756748748]


def test_skipping_is_drawing():
    a, b = Generator(3), Generator(3)
    a.words((1 << 20) + 17)
    b.skip((1 << 20) + 17)
    assert a.words(4).tolist() == b.words(4).tolist()


@pytest.mark.parametrize("bad", [-1, 1.5, "a", None])
def test_what_is_no_seed_is_refused(bad):
    with pytest.raises(InputError, match="seed"):
        Generator(bad)


@pytest.mark.parametrize("low, high", [(0, 0), (3, 2), (0, 2**63)])
def test_a_range_without_integers_is_refused(low, high):
    with pytest.raises(InputError, match="randint"):
        Generator(0).randint(high, 4, low)


def test_a_dtype_that_is_not_drawn_is_refused():
    with pytest.raises(InputError, match="float32 or float64"):
        Generator(0).uniform(4, dtype="float16")


# Compared one after the other: each must leave the stream where PyTorch leaves it, the kept sine included.
DRAWS = [
    ("uniform", lambda t: t.uniform(5), lambda torch: torch.empty(5).uniform_()),
    (
        "uniform between",
        lambda t: t.uniform((2, 3), -1.5, 2.5),
        lambda torch: torch.empty(2, 3).uniform_(-1.5, 2.5),
    ),
    (
        "double uniform",
        lambda t: t.uniform(7, dtype="float64"),
        lambda torch: torch.empty(7, dtype=torch.float64).uniform_(),
    ),
    ("randint", lambda t: t.randint(1003790, 12), lambda torch: torch.randint(1003790, (12,))),
    ("randint from", lambda t: t.randint(9, (3, 3), -4), lambda torch: torch.randint(-4, 9, (3, 3))),
    ("randint of 2²⁸ − 1", lambda t: t.randint(2**28 - 1, 6), lambda torch: torch.randint(2**28 - 1, (6,))),
    ("randint of 2²⁸", lambda t: t.randint(2**28, 6), lambda torch: torch.randint(2**28, (6,))),
    ("randint of 2⁴⁰", lambda t: t.randint(2**40, 6), lambda torch: torch.randint(2**40, (6,))),
    ("permutation", lambda t: t.permutation(1000), lambda torch: torch.randperm(1000)),
    ("normal", lambda t: t.normal(64), lambda torch: torch.empty(64).normal_()),
    (
        "normal scaled",
        lambda t: t.normal((4, 8), 3.0, 0.02),
        lambda torch: torch.empty(4, 8).normal_(3.0, 0.02),
    ),
    ("normal with a rest", lambda t: t.normal(45), lambda torch: torch.empty(45).normal_()),
    ("few normal", lambda t: t.normal(3), lambda torch: torch.empty(3).normal_()),
    ("few normal again", lambda t: t.normal(5, 1.0, 2.0), lambda torch: torch.empty(5).normal_(1.0, 2.0)),
    (
        "double normal",
        lambda t: t.normal(37, dtype="float64"),
        lambda torch: torch.empty(37, dtype=torch.float64).normal_(),
    ),
    (
        "few double normal",
        lambda t: t.normal(4, dtype="float64"),
        lambda torch: torch.empty(4, dtype=torch.float64).normal_(),
    ),
    ("one", lambda t: t.normal(), lambda torch: torch.empty(()).normal_()),
    ("none", lambda t: t.normal(0), lambda torch: torch.empty(0).normal_()),
]


@pytest.mark.parametrize("seed", [0, 1337, 2**32 - 1, 2**40 + 5])
def test_every_draw_is_pytorchs(seed):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    before = torch.get_rng_state()
    try:
        torch.manual_seed(seed)
        generator = Generator(seed)
        for _ in range(2):
            for name, ours, theirs in DRAWS:
                actual, expected = ours(generator), theirs(torch).numpy()
                assert actual.shape == expected.shape, name
                assert actual.dtype == expected.dtype, name
                if "normal" in name or name == "one":  # PyTorch's logarithm and cosine are not NumPy's
                    ulps = np.spacing(np.maximum(np.abs(expected), 1))
                    assert (np.abs(actual - expected) <= 4 * ulps).all(), name
                else:
                    assert np.array_equal(actual, expected), name
    finally:
        torch.set_rng_state(before)
