"""Which parts of a model do what: enter here to look inside, and to ask what an activation is worth."""

from .ablation import Ablation, ablation
from .circuits import Circuit, copying_scores, ov_circuit, qk_circuit
from .direct import DirectAttribution, direct_logit_attribution
from .heads import (
    Attention,
    HeadScores,
    attention_maps,
    detect_head,
    duplicate_token_score,
    first_token_score,
    head_scores,
    induction_score,
    offset_score,
    previous_token_score,
)
from .inputs import TokenAttribution, gradient_times_input, integrated_gradients
from .lens import Lens, logit_lens
from .metrics import (
    AnswerMetric,
    Metric,
    Surprise,
    log_probability,
    logit_difference,
    probability,
    surprise,
)
from .names import Hook, HookNames, hook_names
from .neurons import Neurons, strongest_activations
from .patching import Patching, activation_patching, attribution_patching, rank_correlation
from .paths import PathPatching, path_patching
from .probes import Probe, ridge_probe
from .prompts import aligned
from .steering import Steering, steered, steering_vector
from .tracing import Tracing, causal_tracing

__all__ = [
    "Ablation",
    "AnswerMetric",
    "Attention",
    "Circuit",
    "DirectAttribution",
    "HeadScores",
    "Hook",
    "HookNames",
    "Lens",
    "Metric",
    "Neurons",
    "Patching",
    "PathPatching",
    "Probe",
    "Steering",
    "Surprise",
    "TokenAttribution",
    "Tracing",
    "ablation",
    "activation_patching",
    "aligned",
    "attention_maps",
    "attribution_patching",
    "causal_tracing",
    "copying_scores",
    "detect_head",
    "direct_logit_attribution",
    "duplicate_token_score",
    "first_token_score",
    "gradient_times_input",
    "head_scores",
    "hook_names",
    "induction_score",
    "integrated_gradients",
    "log_probability",
    "logit_difference",
    "logit_lens",
    "offset_score",
    "ov_circuit",
    "path_patching",
    "previous_token_score",
    "probability",
    "qk_circuit",
    "rank_correlation",
    "ridge_probe",
    "steered",
    "steering_vector",
    "strongest_activations",
    "surprise",
]
