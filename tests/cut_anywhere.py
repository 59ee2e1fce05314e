"""A text in parts, cut anywhere: what every law about texts in parts draws."""

from itertools import pairwise

from hypothesis import strategies as st

# A few cuts, or one at every character.
places = st.lists(st.integers(0, 500), max_size=12) | st.just(range(500))


def cut(text, places):
    """The parts of a text that is cut at places, some of them empty."""
    places = [0, *sorted(p % (len(text) + 1) for p in places), len(text)]
    return [text[a:b] for a, b in pairwise(places)]
