"""A law in shares: what is held each time, and what slow tests hold (pytest -m slow).

Whatever a law goes through, ops, layers or models: each stays in the first share with some of its cases.
"""

import functools
import inspect

import pytest
from hypothesis import given, settings


def drawn(few, many=100, **strategies):
    """given(**strategies), with few examples each time and with many where slow tests run."""

    def shared(law):
        laws = {count: settings(max_examples=count)(given(**strategies)(law)) for count in (few, many)}

        @pytest.mark.parametrize("examples", [few, pytest.param(many, marks=pytest.mark.slow)])
        @functools.wraps(law, updated=())  # what Hypothesis keeps on a law would be looked for at this too
        def held(examples, **arguments):
            laws[examples](**arguments)

        own = [p for name, p in inspect.signature(law).parameters.items() if name not in strategies]
        count = inspect.Parameter("examples", inspect.Parameter.POSITIONAL_OR_KEYWORD)
        held.__signature__ = inspect.Signature([count, *own])
        return held

    return shared


def slow(*values):
    """A row of a table that only slow tests take."""
    return pytest.param(*values, marks=pytest.mark.slow)


def each_time(rows, is_chosen):
    """Rows of a table, or values; is_chosen(i, row) says which are held each time. The others are slow."""
    rows = [row if isinstance(row, tuple) else (row,) for row in rows]
    return [pytest.param(*row) if is_chosen(i, row) else slow(*row) for i, row in enumerate(rows)]
