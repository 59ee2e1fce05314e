"""The names of parameters in classes of transformers, a table each; parameter_names.py says how they read."""

from __future__ import annotations

LLAMA = """
wte            embed_tokens
h.ln_1         layers.{i}.input_layernorm
h.attn.c_attn  layers.{i}.self_attn.{q,k,v}_proj
h.attn.c_proj  layers.{i}.self_attn.o_proj
h.ln_2         layers.{i}.post_attention_layernorm
h.mlp.c_fc     layers.{i}.mlp.{gate,up}_proj
h.mlp.c_proj   layers.{i}.mlp.down_proj
ln_f           norm
lm_head        lm_head
"""


def changed(table: str, *rows: str, without: str = "") -> str:
    """A table with other rows for some parts, and new ones; without: parts that the class does not have."""
    other = {row.split()[0]: row for row in rows}
    lines = [other.pop(row.split()[0], row) for row in table.strip().splitlines()]
    lines = [row for row in lines if row.split()[0] not in without.split()]
    return "\n".join([*lines, *other.values()])


PLUS_ONE = ("ln_f norm plus_one", "h.ln_1 layers.{i}.input_layernorm plus_one")
QWEN3 = changed(LLAMA, "h.attn.ln_q layers.{i}.self_attn.q_norm", "h.attn.ln_k layers.{i}.self_attn.k_norm")
GEMMA = changed(LLAMA, *PLUS_ONE, "h.ln_2 layers.{i}.post_attention_layernorm plus_one")
GEMMA2 = changed(
    LLAMA,
    *PLUS_ONE,
    "h.ln_1_out  layers.{i}.post_attention_layernorm    plus_one",
    "h.ln_2      layers.{i}.pre_feedforward_layernorm   plus_one",
    "h.ln_2_out  layers.{i}.post_feedforward_layernorm  plus_one",
)
GEMMA3 = changed(
    GEMMA2,
    "h.attn.ln_q layers.{i}.self_attn.q_norm plus_one",
    "h.attn.ln_k layers.{i}.self_attn.k_norm plus_one",
)
OLMO = changed(LLAMA, without="h.ln_1 h.ln_2 ln_f")
OLMO2 = changed(
    QWEN3,
    "h.ln_1 layers.{i}.post_attention_layernorm",
    "h.ln_2 layers.{i}.post_feedforward_layernorm",
)
PHI3 = changed(LLAMA, "h.attn.c_attn layers.{i}.self_attn.qkv_proj", "h.mlp.c_fc layers.{i}.mlp.gate_up_proj")
STARCODER2 = changed(LLAMA, "h.mlp.c_fc layers.{i}.mlp.c_fc", "h.mlp.c_proj layers.{i}.mlp.c_proj")
ARCEE = changed(LLAMA, "h.mlp.c_fc layers.{i}.mlp.up_proj")
NEMOTRON = changed(ARCEE, *PLUS_ONE, "h.ln_2 layers.{i}.post_attention_layernorm plus_one")
INTERLEAVED = "h.attn.c_attn layers.{i}.self_attn.{q,k,v}_proj interleaved"
HELIUM = changed(LLAMA, INTERLEAVED)
COHERE = changed(LLAMA, INTERLEAVED, without="h.ln_2")
COHERE_QK = changed(
    COHERE,
    "h.attn.ln_q layers.{i}.self_attn.q_norm neighbours",
    "h.attn.ln_k layers.{i}.self_attn.k_norm neighbours",
)
GLM = changed(LLAMA, INTERLEAVED, "h.mlp.c_fc layers.{i}.mlp.gate_up_proj")
GLM4 = changed(
    GLM,
    "h.ln_1_out  layers.{i}.post_self_attn_layernorm",
    "h.ln_2      layers.{i}.post_attention_layernorm",
    "h.ln_2_out  layers.{i}.post_mlp_layernorm",
)
STABLELM_PARALLEL = changed(LLAMA, without="h.ln_2")
HEAD_NORMS = (
    "h.attn.ln_q layers.{i}.self_attn.q_layernorm.norms.{e}",
    "h.attn.ln_k layers.{i}.self_attn.k_layernorm.norms.{e}",
)
STABLELM_QK, STABLELM_PARALLEL_QK = (changed(table, *HEAD_NORMS) for table in (LLAMA, STABLELM_PARALLEL))
PHI = """
wte            embed_tokens
h.ln_1         layers.{i}.input_layernorm
h.attn.c_attn  layers.{i}.self_attn.{q,k,v}_proj
h.attn.ln_q    layers.{i}.self_attn.q_layernorm
h.attn.ln_k    layers.{i}.self_attn.k_layernorm
h.attn.c_proj  layers.{i}.self_attn.dense
h.mlp.c_fc     layers.{i}.mlp.fc1
h.mlp.c_proj   layers.{i}.mlp.fc2
ln_f           final_layernorm
lm_head        lm_head
"""
PERSIMMON = """
wte            embed_tokens
h.ln_1         layers.{i}.input_layernorm
h.attn.c_attn  layers.{i}.self_attn.query_key_value  grouped
h.attn.ln_q    layers.{i}.self_attn.q_layernorm
h.attn.ln_k    layers.{i}.self_attn.k_layernorm
h.attn.c_proj  layers.{i}.self_attn.dense
h.ln_2         layers.{i}.post_attention_layernorm
h.mlp.c_fc     layers.{i}.mlp.dense_h_to_4h
h.mlp.c_proj   layers.{i}.mlp.dense_4h_to_h
ln_f           final_layernorm
lm_head        lm_head
"""
GPT_NEOX = """
wte            embed_in
h.ln_1         layers.{i}.input_layernorm
h.attn.c_attn  layers.{i}.attention.query_key_value  grouped
h.attn.c_proj  layers.{i}.attention.dense
h.ln_2         layers.{i}.post_attention_layernorm
h.mlp.c_fc     layers.{i}.mlp.dense_h_to_4h
h.mlp.c_proj   layers.{i}.mlp.dense_4h_to_h
ln_f           final_layer_norm
lm_head        embed_out
"""
GPTJ = """
wte            wte
h.ln_1         h.{i}.ln_1
h.attn.c_attn  h.{i}.attn.{q,k,v}_proj  interleaved
h.attn.c_proj  h.{i}.attn.out_proj
h.mlp.c_fc     h.{i}.mlp.fc_in
h.mlp.c_proj   h.{i}.mlp.fc_out
ln_f           ln_f
lm_head        lm_head
"""
CODEGEN = changed(GPTJ, "h.attn.c_attn h.{i}.attn.qkv_proj by_quarters interleaved")
FALCON = """
wte            word_embeddings
h.ln_1         h.{i}.input_layernorm
h.attn.c_attn  h.{i}.self_attention.query_key_value  grouped
h.attn.c_proj  h.{i}.self_attention.dense
h.ln_2         h.{i}.post_attention_layernorm
h.mlp.c_fc     h.{i}.mlp.dense_h_to_4h
h.mlp.c_proj   h.{i}.mlp.dense_4h_to_h
ln_f           ln_f
lm_head        lm_head
"""
FALCON_PARALLEL = changed(FALCON, without="h.ln_2")
FALCON_NEW = changed(FALCON, "h.ln_1 h.{i}.ln_attn", "h.ln_2 h.{i}.ln_mlp")
BLOOM = changed(FALCON, "ln_emb word_embeddings_layernorm")
GPT1 = """
wte            tokens_embed
wpe            positions_embed
h.attn.c_attn  h.{i}.attn.c_attn  in_out
h.attn.c_proj  h.{i}.attn.c_proj  in_out
h.ln_1         h.{i}.ln_1
h.mlp.c_fc     h.{i}.mlp.c_fc     in_out
h.mlp.c_proj   h.{i}.mlp.c_proj   in_out
h.ln_2         h.{i}.ln_2
lm_head        lm_head
"""
GPT_BIGCODE = """
wte            wte
wpe            wpe
h.ln_1         h.{i}.ln_1
h.attn.c_attn  h.{i}.attn.c_attn  grouped
h.attn.c_proj  h.{i}.attn.c_proj
h.ln_2         h.{i}.ln_2
h.mlp.c_fc     h.{i}.mlp.c_fc
h.mlp.c_proj   h.{i}.mlp.c_proj
ln_f           ln_f
lm_head        lm_head
"""
GPT_NEO = changed(
    GPT_BIGCODE,
    "h.attn.c_attn h.{i}.attn.attention.{q,k,v}_proj",
    "h.attn.c_proj h.{i}.attn.attention.out_proj",
)
MPT = """
wte            wte
h.ln_1         blocks.{i}.norm_1
h.attn.c_attn  blocks.{i}.attn.Wqkv
h.attn.c_proj  blocks.{i}.attn.out_proj
h.ln_2         blocks.{i}.norm_2
h.mlp.c_fc     blocks.{i}.ffn.up_proj
h.mlp.c_proj   blocks.{i}.ffn.down_proj
ln_f           norm_f
lm_head        lm_head
"""
OPT = """
wte            embed_tokens
wpe            embed_positions  after_two
h.ln_1         layers.{i}.self_attn_layer_norm
h.attn.c_attn  layers.{i}.self_attn.{q,k,v}_proj
h.attn.c_proj  layers.{i}.self_attn.out_proj
h.ln_2         layers.{i}.final_layer_norm
h.mlp.c_fc     layers.{i}.fc1
h.mlp.c_proj   layers.{i}.fc2
ln_f           final_layer_norm
lm_head        lm_head
"""
# Mixtures of experts; where some layers have none, the lines of a dense layer stay.
QWEN3_MOE = changed(
    QWEN3,
    "h.mlp.router    layers.{i}.mlp.gate",
    "h.mlp.c_fc[e]   layers.{i}.mlp.experts.{e}.{gate,up}_proj",
    "h.mlp.c_proj[e] layers.{i}.mlp.experts.{e}.down_proj",
)
QWEN2_MOE = changed(
    QWEN3_MOE,
    "h.mlp.shared.c_fc   layers.{i}.mlp.shared_expert.{gate,up}_proj",
    "h.mlp.shared.c_proj layers.{i}.mlp.shared_expert.down_proj",
    "h.mlp.shared_gate   layers.{i}.mlp.shared_expert_gate",
    without="h.attn.ln_q h.attn.ln_k",
)
MIXTRAL = changed(
    LLAMA,
    "h.mlp.router    layers.{i}.block_sparse_moe.gate",
    "h.mlp.c_fc[e]   layers.{i}.block_sparse_moe.experts.{e}.{w1,w3}",
    "h.mlp.c_proj[e] layers.{i}.block_sparse_moe.experts.{e}.w2",
    without="h.mlp.c_fc h.mlp.c_proj",
)
OLMOE = changed(QWEN3_MOE, without="h.mlp.c_fc h.mlp.c_proj")
GRANITE_MOE = changed(
    LLAMA,
    "h.mlp.router    layers.{i}.block_sparse_moe.router.layer",
    "h.mlp.c_fc[e]   layers.{i}.block_sparse_moe.input_linear",
    "h.mlp.c_proj[e] layers.{i}.block_sparse_moe.output_linear",
    without="h.mlp.c_fc h.mlp.c_proj",
)
GPT_OSS = changed(
    LLAMA,
    "h.attn.heads    layers.{i}.self_attn.sinks",
    "h.mlp.router    layers.{i}.mlp.router",
    "h.mlp.c_fc[e]   layers.{i}.mlp.experts.gate_up_proj  in_out bare alternating",
    "h.mlp.c_proj[e] layers.{i}.mlp.experts.down_proj     in_out bare",
    without="h.mlp.c_fc h.mlp.c_proj",
)
