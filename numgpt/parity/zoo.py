"""Every class of transformers that numgpt reads, as a tiny random model: an oracle in float64 throughout.

A model that .double() turned is float32 inside: norms, rotary positions and the softmax say so. Here float32
itself means float64 while a model is built and run, so that what is left of a difference is rounding.
"""

from __future__ import annotations

import contextlib
import importlib.util
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..errors import InputError, did_you_mean
from ..interchange import tensor_files
from ..interchange.architectures import ARCHITECTURES
from ..model.generate import logits_stream
from ..model.gpt import GPT
from .borrowing import torch

SIZE: dict[str, Any] = {
    "vocab_size": 19,
    "hidden_size": 32,
    "intermediate_size": 20,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 16,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,  # of which the embedding would get no gradient
}
KEYS = {"num_key_value_heads": 2}
HEADS = KEYS | {"head_dim": 10}
MIXTURE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 12}
TWELVE = KEYS | {"head_dim": 12}
SIX = {"hidden_size": 36, "num_attention_heads": 6}  # no power of two, which slopes ask about
T, PROMPT = 12, 4  # tokens of a row, more than any window here; and those before decoding one by one
# A case → (model_type, settings that differ from SIZE).
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "GPT-1": ("openai-gpt", {}),
    "GPT-2": ("gpt2", {}),
    "GPTBigCode": ("gpt_bigcode", {"n_inner": 20}),
    "GPTBigCode, a key head each": ("gpt_bigcode", {"multi_query": False}),
    "GPT-Neo": (
        "gpt_neo",
        {"attention_types": [[["global", "local"], 2]], "window_size": 5} | {"num_hidden_layers": 4},
    ),
    "GPT-J": ("gptj", {"rotary_dim": 4}),
    "CodeGen": ("codegen", {"rotary_dim": 4, "num_attention_heads": 8, "hidden_size": 48}),
    "GPT-NeoX": (
        "gpt_neox",
        {"rope_parameters": {"partial_rotary_factor": 0.5, "rope_type": "default"} | {"rope_theta": 500.0}},
    ),
    "GPT-NeoX, one after the other": ("gpt_neox", {"use_parallel_residual": False}),
    "Bloom": ("bloom", SIX),
    "MPT": ("mpt", {"d_model": 36, "n_heads": 6, "max_seq_len": 16}),
    "Falcon": ("falcon", {}),
    "Falcon, new": ("falcon", {"new_decoder_architecture": True, "num_kv_heads": 2, "bias": True}),
    "Falcon, new, one norm": (
        "falcon",
        {"new_decoder_architecture": True, "num_kv_heads": 2, "num_ln_in_parallel_attn": 1},
    ),
    "Falcon, ALiBi": ("falcon", SIX | {"alibi": True, "multi_query": False, "bias": True}),
    "Falcon, one after the other": ("falcon", {"parallel_attn": False, "multi_query": False}),
    "OPT": ("opt", {"ffn_dim": 20}),
    "OPT, post": ("opt", {"ffn_dim": 20, "do_layer_norm_before": False}),
    "Llama": ("llama", HEADS),
    "Mistral": ("mistral", KEYS | {"sliding_window": 5}),
    "Qwen2": ("qwen2", KEYS),
    "Qwen3": ("qwen3", HEADS | {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1}),
    "Gemma": ("gemma", HEADS),
    "Gemma 2": (
        "gemma2",
        HEADS
        | {"sliding_window": 5, "query_pre_attn_scalar": 7}
        | {"attn_logit_softcapping": 3.0, "final_logit_softcapping": 2.0},
    ),
    "Gemma 3": ("gemma3_text", HEADS | {"sliding_window": 5, "num_hidden_layers": 7}),
    "Phi": ("phi", KEYS),
    "Phi, normalised": ("phi", {"qk_layernorm": True}),
    "Phi-3": ("phi3", KEYS | {"sliding_window": 6}),
    "OLMo": ("olmo", KEYS),
    "OLMo 2": ("olmo2", KEYS),
    "OLMo 3": ("olmo3", KEYS | {"sliding_window": 5, "num_hidden_layers": 5}),
    "StableLM": ("stablelm", KEYS | {"use_qkv_bias": True}),
    "StableLM, parallel": ("stablelm", KEYS | {"use_parallel_residual": True}),
    "StableLM, QK-norm": ("stablelm", KEYS | {"qk_layernorm": True}),
    "StableLM, parallel, QK-norm": ("stablelm", KEYS | {"use_parallel_residual": True, "qk_layernorm": True}),
    "Starcoder2": ("starcoder2", KEYS | {"sliding_window": 5}),
    "Persimmon": ("persimmon", {}),
    "Nemotron": ("nemotron", TWELVE),
    "Cohere": ("cohere", KEYS),
    "Cohere, QK-norm": ("cohere", KEYS | {"use_qk_norm": True}),
    "Cohere 2": ("cohere2", KEYS | {"sliding_window": 5, "num_hidden_layers": 5}),
    "SmolLM3": ("smollm3", KEYS | {"num_hidden_layers": 5}),
    "Granite": (
        "granite",
        KEYS
        | {"embedding_multiplier": 3.0, "logits_scaling": 3.0}
        | {"residual_multiplier": 0.7, "attention_multiplier": 0.4},
    ),
    "GLM": ("glm", TWELVE),
    "GLM-4": ("glm4", TWELVE),
    "Mixtral": ("mixtral", HEADS | {"num_local_experts": 4, "sliding_window": 5}),
    "Qwen2-MoE": (
        "qwen2_moe",
        KEYS | MIXTURE | {"shared_expert_intermediate_size": 14, "mlp_only_layers": [1]},
    ),
    "Qwen2-MoE, windows": (
        "qwen2_moe",
        KEYS
        | MIXTURE
        | {"shared_expert_intermediate_size": 14, "norm_topk_prob": True, "num_hidden_layers": 4}
        | {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 2, "decoder_sparse_step": 2},
    ),
    "Qwen3-MoE": ("qwen3_moe", HEADS | MIXTURE | {"num_local_experts": 4, "norm_topk_prob": True}),
    "Qwen3-MoE, raw": (
        "qwen3_moe",
        HEADS
        | MIXTURE
        | {"num_local_experts": 4, "decoder_sparse_step": 2, "use_sliding_window": True, "sliding_window": 5},
    ),
    "OLMoE": ("olmoe", KEYS | {"num_experts": 4, "num_experts_per_tok": 2}),
    "GraniteMoE": (
        "granitemoe",
        KEYS
        | {"num_local_experts": 4, "embedding_multiplier": 3.0, "logits_scaling": 3.0}
        | {"residual_multiplier": 0.7, "attention_multiplier": 0.4},
    ),
    "GPT-OSS": (
        "gpt_oss",
        HEADS | {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 5},
    ),
    "Helium": ("helium", KEYS | {"head_dim": 8}),
    "Arcee": ("arcee", HEADS),
}
TOLERANCE = 1e-12
# A model_type → what its gradients may differ by: Bloom's GELU has a backward whose constant has ten digits.
ROUNDED = {"bloom": 1e-10}
# Whose eager attention adds the linear biases twice.
BY_SDPA = ("Falcon, ALiBi",)


class Found(NamedTuple):
    """What a case gave: differences relative to the largest entry of the reference.

    files: 0 where every array of the file is written again to the bit.
    """

    case: str
    kind: str
    logits: float
    gradients: float
    cached: float
    files: float

    def __str__(self) -> str:
        written = "exact" if self.files == 0 else f"{self.files:.0e}"
        numbers = "  ".join(f"{x:9.1e}" for x in (self.logits, self.gradients, self.cached))
        return f"{self.case:30}  {self.kind:12}  {numbers}  {written:>7}"

    def holds(self) -> bool:
        """Whether all is rounding."""
        rest = max(self.logits, self.cached, self.files)
        return rest <= TOLERANCE and self.gradients <= ROUNDED.get(self.kind, TOLERANCE)


HEADER = f"{'class':30}  {'model_type':12}  {'logits':>9}  {'gradients':>9}  {'cached':>9}  {'files':>7}"


@contextlib.contextmanager
def float64_throughout() -> Iterator[Any]:
    """torch.float32 is torch.float64 inside."""
    t = torch()
    names = ("float32", "float")
    before = {name: getattr(t, name) for name in names}
    single, default = t.Tensor.float, t.get_default_dtype()
    t.set_default_dtype(t.float64)
    try:
        for name in names:
            setattr(t, name, t.float64)
        t.Tensor.float = t.Tensor.double
        yield t
    finally:
        for name, dtype in before.items():
            setattr(t, name, dtype)
        t.Tensor.float = single
        t.set_default_dtype(default)


def chosen(names: Sequence[str]) -> list[str]:
    """The cases whose name or model_type holds one of some words; all of them without words."""
    for name in names:
        if not any(name.lower() in f"{case} {kind}".lower() for case, (kind, _) in CASES.items()):
            known = [*CASES, *ARCHITECTURES]
            raise InputError(
                f"verify: the zoo has no class {name!r}{did_you_mean(name, known)}, expected part of one of"
                f" {', '.join(CASES)}"
            )
    wanted = [name.lower() for name in names] or [""]
    return [
        case for case, (kind, _) in CASES.items() if any(name in f"{case} {kind}".lower() for name in wanted)
    ]


def classes(kind: str) -> tuple[Any, Any]:
    """The configuration and the model of a model_type; imported before anything is widened."""
    if importlib.util.find_spec("transformers") is None:
        raise InputError(
            "verify: transformers is not installed, expected it for --zoo: pip install transformers"
        )
    import transformers
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    model = getattr(transformers, ARCHITECTURES[kind].model)
    return model.config_class, model


def reference(case: str, seed: int = 1) -> Any:
    """The model of a case, every parameter random; to be built and run within float64_throughout."""
    t = torch()
    kind, changes = CASES[case]
    config, model = classes(kind)
    attention = "sdpa" if case in BY_SDPA else "eager"
    settings = config(**SIZE | changes, use_cache=False)
    settings._experts_implementation = "eager"  # the others know no float64
    theirs = model._from_config(settings, attn_implementation=attention, dtype=t.float64).eval()
    t.manual_seed(seed)
    with t.no_grad():
        for name, parameter in theirs.named_parameters():
            parameter += 0.3 * t.randn(parameter.shape)
            if name.endswith("embed_positions.weight"):
                parameter[:2] = 0  # which an OPT never reads
    return theirs


def outcome(theirs: Any, tokens: Any, targets: Any) -> tuple[Any, Any]:
    """(logits, name → gradient) of a model, in NumPy."""
    t = torch()
    theirs.zero_grad()
    logits = theirs(t.from_numpy(tokens)).logits
    t.nn.functional.cross_entropy(logits.flatten(0, -2), t.from_numpy(targets).flatten()).backward()
    grads = {
        name: np.zeros(tuple(p.shape)) if p.grad is None else p.grad.numpy().copy()
        for name, p in theirs.named_parameters()
    }
    return logits.detach().numpy(), grads


def batch(seed: int = 0) -> tuple[Any, Any]:
    """Tokens and targets."""
    tokens, targets = np.random.default_rng([seed, 7]).integers(0, SIZE["vocab_size"], (2, 2, T))
    return tokens, targets


def found(case: str, folder: Path, seed: int = 0) -> Found:
    """Build a class's model, save it to a folder, read it, and compare."""
    kind, _ = CASES[case]
    row = ARCHITECTURES[kind]
    classes(kind)
    tokens, targets = batch(seed)
    with float64_throughout():
        theirs = reference(case, seed + 1)
        logits, grads = outcome(theirs, tokens, targets)
        theirs.save_pretrained(folder)
    model = GPT.load(folder)
    _, ours = model.loss_and_grads(tokens, targets)
    named = row.arrays(model.config, ours, are_gradients=True)
    entries = tensor_files.entries(folder, "", lambda name: False)
    stored = {name: tensor_files.numbers(entry) for name, entry in entries.items()}
    in_memory = in_one({name.replace("embed_out.", "lm_head."): array for name, array in named.items()})
    return Found(
        case,
        kind,
        apart(model(tokens), logits),
        gradients_apart(in_memory, grads),
        decoded_apart(model, tokens, logits),
        files_apart(row.arrays(model.config, model.params), stored),
    )


# What a file has of experts → what a model in memory calls it.
IN_FILES = (
    ("block_sparse_moe.gate.", "mlp.gate."),
    ("block_sparse_moe.router.layer.", "block_sparse_moe.router."),
    ("block_sparse_moe.input_linear.weight", "block_sparse_moe.experts.gate_up_proj"),
    ("block_sparse_moe.output_linear.weight", "block_sparse_moe.experts.down_proj"),
)
OF_AN_EXPERT = re.compile(r"(.*)\.(?:mlp|block_sparse_moe)\.experts\.\d+\.(\w+)\.weight")
IN_MEMORY = {"w1": "gate_up_proj", "gate_proj": "gate_up_proj", "w2": "down_proj", "down_proj": "down_proj"}


def in_one(named: Mapping[str, Any]) -> dict[str, Any]:
    """Arrays as a model in memory has them: the matrices of experts stacked, gate and value in one."""
    stacks: dict[str, dict[str, list[Any]]] = {}
    whole = {}
    for name, array in named.items():
        match = OF_AN_EXPERT.fullmatch(name)
        if match is None:
            for file, memory in IN_FILES:
                name = name.replace(file, memory)
            whole[name] = array
        else:
            stacks.setdefault(match[1], {}).setdefault(match[2], []).append(array)
    for place, parts in stacks.items():
        values = parts.get("w3") or parts["up_proj"]
        for part, arrays in parts.items():
            if part in IN_MEMORY:
                joined = np.stack(arrays)
                if IN_MEMORY[part] == "gate_up_proj":
                    joined = np.concatenate([joined, np.stack(values)], axis=1)
                whole[f"{place}.mlp.experts.{IN_MEMORY[part]}"] = joined
    return whole


def apart(ours: Any, theirs: Any, least: float = 0.0) -> float:
    """The largest difference, relative to the largest entry of theirs; infinite where there is none.

    least: what that entry is taken for where it is smaller.
    """
    if ours.shape != theirs.shape:
        return float("inf")
    size = max(abs(theirs).max(initial=0.0), least)
    difference = float(abs(ours - theirs).max(initial=0.0) / (size or 1.0))
    return difference if np.isfinite(difference) else float("inf")  # max would pass over NaN


def gradients_apart(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> float:
    """The largest difference of a gradient, relative to its largest entry; infinite where names differ.

    Where that is below a thousandth of all gradients' largest entry, relative to this: a bias of keys that
    are not turned has gradient 0, of which rounding is all that is left.
    """
    if set(ours) != set(theirs):
        return float("inf")
    least = 1e-3 * max(abs(array).max(initial=0.0) for array in theirs.values())
    return max(apart(array, theirs[name], least) for name, array in ours.items())


def decoded_apart(model: GPT, tokens: Any, logits: Any) -> float:
    """How far the logits of decoding token by token, after a prompt, are from those of the whole."""
    stream = logits_stream(model, tokens[:, :PROMPT])
    worst = apart(next(stream), logits[:, PROMPT - 1])
    for t in range(PROMPT, tokens.shape[1]):
        worst = max(worst, apart(stream.send(tokens[:, t]), logits[:, t]))
    return worst


def files_apart(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> float:
    """How far what is written is from what was read: 0 where every array is the same to the bit."""
    if set(ours) != set(theirs):
        return float("inf")
    return max(
        0.0 if np.ascontiguousarray(array).tobytes() == theirs[name].tobytes() else apart(array, theirs[name])
        for name, array in ours.items()
    )


def lines(seed: int, cases: Sequence[str]) -> Iterator[Found]:
    """What each class gives, one after the other."""
    for case in cases:
        with tempfile.TemporaryDirectory() as folder:
            yield found(case, Path(folder), seed)
