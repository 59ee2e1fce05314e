"""From a model that writes to one that answers: enter here to ask how one is tuned."""

from .advantages import adaptive_beta, dr_grpo, gae, grpo, reinforce_pp, rloo
from .classify import Tasks, predictions
from .continual import Anchor, Anchored
from .distill import Distillation
from .order import drawn
from .policy_gradient import PolicyGradient
from .ppo import PPO
from .prefer import Preferences, margins
from .respond import respond
from .reward_functions import FunctionReward, ModelReward, Reward, reward_of, rewarded
from .rewards import Rewards
from .rollouts import Rollout, sample, score
from .sft import Responses
from .trained import frozen, optimizer_of, trained_names
from .verdicts import Verdicts, gains
from .vocabulary import grown

__all__ = [
    "PPO",
    "Anchor",
    "Anchored",
    "Distillation",
    "FunctionReward",
    "ModelReward",
    "PolicyGradient",
    "Preferences",
    "Responses",
    "Reward",
    "Rewards",
    "Rollout",
    "Tasks",
    "Verdicts",
    "adaptive_beta",
    "dr_grpo",
    "drawn",
    "frozen",
    "gae",
    "gains",
    "grown",
    "grpo",
    "margins",
    "optimizer_of",
    "predictions",
    "reinforce_pp",
    "respond",
    "reward_of",
    "rewarded",
    "rloo",
    "sample",
    "score",
    "trained_names",
]
