"""How good a model is: enter here to ask what a loss, an accuracy and its error mean, and what was asked."""

from .benchmarks import Lambada, WikiText, lambada, wikitext
from .likelihoods import Likelihood, log_likelihoods
from .positions import Positions, loss_by_position
from .questions import Question, Suite
from .statistics import Estimate, bootstrap, difference, estimate, pass_at_k
from .suites import suite
from .task_files import read_suite
from .tasks import Measure, Result, evaluate

__all__ = [
    "Estimate",
    "Lambada",
    "Likelihood",
    "Measure",
    "Positions",
    "Question",
    "Result",
    "Suite",
    "WikiText",
    "bootstrap",
    "difference",
    "estimate",
    "evaluate",
    "lambada",
    "log_likelihoods",
    "loss_by_position",
    "pass_at_k",
    "read_suite",
    "suite",
    "wikitext",
]
