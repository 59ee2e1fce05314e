"""Hypothesis profiles, and the engine: tests in this process run on the specification, those of
test_engine.py on its twins.

Commands that a test starts run on the default engine, as a user's do.
"""

import os

import pytest
from hypothesis import settings

import numgpt

# No deadline: a first call is slow. The same examples on every run of continuous integration.
settings.register_profile("local", deadline=None, print_blob=True)
settings.register_profile("ci", deadline=None, print_blob=True, derandomize=True)
# Where CI is set, pytest would look for all that two different megabytes of bits have in common, for an hour:
# it is told nothing of it.
# The workers of xdist, which start afterwards, have to know which it was.
if os.environ.pop("CI", None):
    os.environ["NUMGPT_HYPOTHESIS"] = "ci"
settings.load_profile(os.environ.get("NUMGPT_HYPOTHESIS", "local"))

# OpenMP's threads wait for work awake. Beside another worker's they would wait for a processor that one of
# them keeps awake: a step of a small model then takes twenty times as long.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")


@pytest.fixture(autouse=True, scope="session")
def on_the_specification():
    """Undone by nothing: test_engine.py chooses for itself and puts this back."""
    numgpt.use("reference")


@pytest.fixture(params=["reference", "numba"])
def each_engine(request):
    """A test that asks for it runs on each engine that computes on the host."""
    if request.param == "numba":
        pytest.importorskip("numba", reason="Numba is not installed")
    before = numgpt.engine.current()
    numgpt.use(request.param)
    yield request.param
    numgpt.use(before)
