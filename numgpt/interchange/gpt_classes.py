"""Classes of transformers of GPT-2's family: GPT-1, GPT-J, CodeGen, GPT-Neo, GPTBigCode, MPT and OPT."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ..architecture.config import Config
from . import class_tables as tables
from .config_keys import Keys, is_positive
from .features import Feature, Fields, biases, choice, first, fixed, must, plain
from .layer_features import attention_types


class Row(NamedTuple):
    """A class: its name in a sentence, the class, its table, and its features; see architectures.py.

    table: of names, or a function of the Config that gives it. sizes: a field → its key.
    older: keys of older files → those that they mean.
    """

    name: str
    model: str
    table: str | Callable[[Config], str]
    sizes: Mapping[str, str]
    defaults: Mapping[str, Any]
    features: tuple[Feature, ...]
    prefix: str = "model."
    older: Mapping[str, str] = {}


GPT = {
    "vocab_size": "vocab_size",
    "block_size": "n_positions",
    "n_layer": "n_layer",
    "n_head": "n_head",
    "n_embd": "n_embd",
    "tied": "tie_word_embeddings",
    "layer_norm_epsilon": "layer_norm_epsilon",
}
NAMES = {"hidden_size": "n_embd", "num_attention_heads": "n_head", "num_hidden_layers": "n_layer"}
NAMES |= {"max_position_embeddings": "n_positions"}


def gpt_size(vocab: int, width: int, layers: int, heads: int, length: int) -> dict[str, Any]:
    """The defaults of a class's sizes, by GPT-2's keys."""
    named = {"vocab_size": vocab, "n_embd": width, "n_layer": layers, "n_head": heads, "n_positions": length}
    return named | {"n_inner": None, "layer_norm_epsilon": 1e-5}


def _read_query(keys: Keys, _: Fields) -> Fields:
    return {"n_kv_head": 1} if keys.flag("multi_query") else {}


multi_query = Feature(
    ("multi_query",), _read_query, lambda config: {"multi_query": first(config).kv_heads == 1}
)


def _read_rotary_dim(keys: Keys, fields: Fields) -> Fields:
    """rotary_dim says how many features turn; null would be all of the width, not of a head."""
    return {"positions": "rotary"}


def _read_quarters(keys: Keys, fields: Fields) -> Fields:
    H = fields["n_head"]
    if isinstance(H, int) and H % 4:
        keys.refuse("n_head", "a multiple of 4, for queries, keys and values lie in four quarters")
    return {}


# What attn_config of an MPT says → the one value that is computed here.
MPT_ATTENTION = {
    "attn_type": "multihead_attention",
    "clip_qkv": None,
    "prefix_lm": False,
    "qk_ln": False,
    "alibi": True,
    "alibi_bias_max": 8,
}


def _read_attention(keys: Keys, _: Fields) -> Fields:
    said = keys["attn_config"] or {}
    if not isinstance(said, dict):
        keys.refuse("attn_config", "a mapping")
    for key, value in MPT_ATTENTION.items():
        if said.get(key, value) != value:
            keys.refuse("attn_config", f"{key} {value}: no other is computed here", {key: said[key]})
    scale = said.get("softmax_scale")
    if scale is None:
        return {"positions": "alibi"}
    if not is_positive(scale):
        keys.refuse("attn_config", "softmax_scale a number above 0, or null", {"softmax_scale": scale})
    return {"positions": "alibi", "attn_scale": scale}


def _write_attention(config: Config) -> Fields:
    return {"attn_config": MPT_ATTENTION | {"softmax_scale": first(config).attn_scale}}


def _read_width(keys: Keys, fields: Fields) -> Fields:
    width = keys["word_embed_proj_dim"]
    if width not in (None, fields["n_embd"]):
        keys.refuse(
            "word_embed_proj_dim", f"hidden_size {fields['n_embd']}: embeddings are not projected here"
        )
    return {}


ROTARY_GPT = Row(
    "GPT-J",
    "GPTJForCausalLM",
    tables.GPTJ,
    GPT | {"n_inner": "n_inner", "rotary_dim": "rotary_dim"},
    gpt_size(50400, 4096, 28, 16, 2048)
    | {"rotary_dim": 64, "activation_function": "gelu_new", "tie_word_embeddings": False},
    (
        plain("activation_function"),
        Feature((), _read_rotary_dim, lambda config: {}),
        fixed(norm_position="parallel"),
        biases("mlp norm head"),
    ),
    "transformer.",
    NAMES,
)
GPT_ROWS = {
    "openai-gpt": Row(
        "GPT-1",
        "OpenAIGPTLMHeadModel",
        tables.GPT1,
        GPT,
        gpt_size(40478, 768, 12, 12, 512) | {"afn": "gelu", "tie_word_embeddings": True},
        # this class calls GELU in its tanh form gelu
        (plain("afn", {"gelu": "gelu_tanh"}, "gelu relu silu"), fixed(norm_position="post")),
        "transformer.",
        NAMES,
    ),
    "gptj": ROTARY_GPT,
    "codegen": ROTARY_GPT._replace(
        name="CodeGen",
        model="CodeGenForCausalLM",
        table=tables.CODEGEN,
        features=(*ROTARY_GPT.features, Feature((), _read_quarters, lambda config: {})),
    ),
    "gpt_bigcode": Row(
        "GPTBigCode",
        "GPTBigCodeForCausalLM",
        tables.GPT_BIGCODE,
        GPT | {"n_inner": "n_inner"},
        gpt_size(50257, 768, 12, 12, 1024)
        | {"activation_function": "gelu_pytorch_tanh", "multi_query": True, "tie_word_embeddings": True}
        | {"scale_attn_weights": True, "add_cross_attention": False},
        (
            plain("activation_function"),
            multi_query,
            must("scale_attn_weights", "scores are scaled here", True),
            must("add_cross_attention", "there is nothing else to attend to", False),
        ),
        "transformer.",
        NAMES,
    ),
    "gpt_neo": Row(
        "GPT-Neo",
        "GPTNeoForCausalLM",
        tables.GPT_NEO,
        {"vocab_size": "vocab_size", "block_size": "max_position_embeddings", "n_layer": "num_layers"}
        | {"n_head": "num_heads", "n_embd": "hidden_size", "n_inner": "intermediate_size"}
        | {"layer_norm_epsilon": "layer_norm_epsilon", "tied": "tie_word_embeddings"},
        {"vocab_size": 50257, "max_position_embeddings": 2048, "hidden_size": 2048, "num_layers": 24}
        | {"num_heads": 16, "intermediate_size": None, "layer_norm_epsilon": 1e-5}
        | {"activation_function": "gelu_new", "tie_word_embeddings": True, "window_size": 256}
        | {"attention_types": [[["global", "local"], 12]]},
        (
            plain("activation_function"),
            fixed(attn_scale=1.0),
            biases("out mlp norm"),
            attention_types(),
        ),
        "transformer.",
        {"num_attention_heads": "num_heads", "num_hidden_layers": "num_layers"},
    ),
    "mpt": Row(
        "MPT",
        "MptForCausalLM",
        tables.MPT,
        {"vocab_size": "vocab_size", "block_size": "max_seq_len", "n_layer": "n_layers", "n_head": "n_heads"}
        | {"n_embd": "d_model", "layer_norm_epsilon": "layer_norm_epsilon", "tied": "tie_word_embeddings"},
        {"vocab_size": 50368, "d_model": 2048, "n_layers": 24, "n_heads": 16, "max_seq_len": 2048}
        | {"layer_norm_epsilon": 1e-5, "tie_word_embeddings": True, "expansion_ratio": 4},
        (
            fixed(activation="gelu"),
            Feature(("attn_config",), _read_attention, _write_attention),
            must("expansion_ratio", "the class has four times the width, whatever it says", 4),
            biases(),
        ),
        "transformer.",
        {"hidden_size": "d_model", "num_attention_heads": "n_heads", "num_hidden_layers": "n_layers"},
    ),
    "opt": Row(
        "OPT",
        "OPTForCausalLM",
        tables.OPT,
        {"vocab_size": "vocab_size", "block_size": "max_position_embeddings"}
        | {"n_layer": "num_hidden_layers", "n_head": "num_attention_heads", "n_embd": "hidden_size"}
        | {"n_inner": "ffn_dim", "tied": "tie_word_embeddings"},
        {"vocab_size": 50272, "max_position_embeddings": 2048, "hidden_size": 768, "ffn_dim": 3072}
        | {"num_hidden_layers": 12, "num_attention_heads": 12, "activation_function": "relu"}
        | {"tie_word_embeddings": True, "do_layer_norm_before": True, "enable_bias": True}
        | {"_remove_final_layer_norm": False, "layer_norm_elementwise_affine": True},
        (
            plain("activation_function"),
            choice("do_layer_norm_before", "norm_position", "pre", "post"),
            biases("norm", enable_bias="qkv out mlp"),
            must("_remove_final_layer_norm", "the last block's result is normalised", False),
            must("layer_norm_elementwise_affine", "norms have weights", True),
            Feature(("word_embed_proj_dim",), _read_width, lambda config: {}),
        ),
        "model.decoder.",
    ),
}
