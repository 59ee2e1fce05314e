"""A text on a terminal is broken between words, whatever the parts in which it comes."""

import io
import textwrap

import pytest
from cut_anywhere import cut, places
from hypothesis import given
from hypothesis import strategies as st

from numgpt.commands.wrapping import Wrapper, for_stdout

texts = st.text(st.sampled_from("ab-\n \té"), max_size=80)
widths = st.integers(1, 12)


def wrapped(parts, width):
    wrapper = Wrapper(width)
    return "".join(wrapper.add(part) for part in parts) + wrapper.end()


@given(texts, widths, places)
def test_the_parts_in_which_a_text_comes_do_not_matter(text, width, places):
    assert wrapped(cut(text, places), width) == wrapped([text], width)


@given(texts, widths)
def test_only_spaces_become_line_breaks_and_lines_that_fit_stay(text, width):
    result = wrapped([text], width)
    assert result.split() == text.split()
    for line in result.split("\n"):
        assert len(line) <= width or len(line.split()) <= 1, "two words on a line that is too long"
    if all(len(line) <= width for line in text.split("\n")):
        assert result == text


@given(st.lists(st.text("abc", min_size=1, max_size=9), max_size=20), widths)
def test_a_paragraph_is_what_textwrap_makes_of_it(words, width):
    paragraph = " ".join(words)
    options = {"break_long_words": False, "break_on_hyphens": False}
    assert wrapped([paragraph], width) == textwrap.fill(paragraph, width, **options)


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("stdout, is_wrapped", [(Terminal(), True), (io.StringIO(), False)])
def test_a_text_is_wrapped_to_a_terminal_and_left_as_it_is_elsewhere(monkeypatch, stdout, is_wrapped):
    monkeypatch.setattr("sys.stdout", stdout)
    monkeypatch.setenv("COLUMNS", "10")
    wrapper = for_stdout()
    result = wrapper.add("many words in a line ") + wrapper.end()
    assert result == ("many words\nin a line " if is_wrapped else "many words in a line ")
