"""Hypothesis profiles, and the engine: tests in this process run on the specification, those of test_engine.py on its twins.

Commands that a test starts run on the default engine, as a user's do.
"""

import os

import pytest
from hypothesis import settings

import numgpt

# No deadline: a first call is slow. The same examples on every run of continuous integration.
settings.register_profile("local", deadline=None, print_blob=True)
settings.register_profile("ci", deadline=None, print_blob=True, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")


@pytest.fixture(autouse=True, scope="session")
def on_the_specification():
    """Undone by nothing: test_engine.py chooses for itself and puts this back."""
    numgpt.use("reference")
