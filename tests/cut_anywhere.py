"""A text in parts, cut anywhere: what every law about texts in parts draws."""

from hypothesis import strategies as st

places = st.lists(st.integers(0, 500), max_size=12) | st.just(
    range(500)
)  # of a few cuts, or of one at every character


def cut(text, places):
    """The parts of a text that is cut at places, some of them empty."""
    places = [0, *sorted(p % (len(text) + 1) for p in places), len(text)]
    return [text[a:b] for a, b in zip(places, places[1:])]
