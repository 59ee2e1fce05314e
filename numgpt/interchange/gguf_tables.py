"""The names of parameters in architectures of GGUF, a table each; parameter_names.py says how they read.

Matrices are (out, in) there, and norms of Gemma hold what they multiply by, so that no table adds 1.
"""

from __future__ import annotations

from .class_tables import changed

GPT2 = """
wte            token_embd
wpe            position_embd
h.ln_1         blk.{i}.attn_norm
h.attn.c_attn  blk.{i}.attn_qkv
h.attn.c_proj  blk.{i}.attn_output
h.ln_2         blk.{i}.ffn_norm
h.mlp.c_fc     blk.{i}.ffn_up
h.mlp.c_proj   blk.{i}.ffn_down
ln_f           output_norm
lm_head        output
"""
BLOOM = changed(GPT2, "ln_emb token_embd_norm", without="wpe")
GPT_NEOX = changed(GPT2, without="wpe")
FALCON = changed(GPT_NEOX, without="h.ln_2")
FALCON_TWO = changed(FALCON, "h.ln_1 blk.{i}.attn_norm_2", "h.ln_2 blk.{i}.attn_norm")
UNPACKED = "h.attn.c_attn blk.{i}.attn_{q,k,v}"
TURNED = "h.attn.c_attn blk.{i}.attn_{q,k,v} interleaved"
GATED = "h.mlp.c_fc blk.{i}.ffn_{gate,up}"
STARCODER2 = changed(GPT_NEOX, UNPACKED)
PHI2 = changed(STARCODER2, without="h.ln_2")
QWEN2 = changed(STARCODER2, GATED)
QWEN3 = changed(QWEN2, "h.attn.ln_q blk.{i}.attn_q_norm", "h.attn.ln_k blk.{i}.attn_k_norm")
LLAMA = changed(QWEN2, TURNED)
ARCEE = changed(LLAMA, "h.mlp.c_fc blk.{i}.ffn_up")
COHERE = changed(LLAMA, without="h.ln_2")
OLMO = changed(LLAMA, without="h.ln_1 h.ln_2 ln_f")
OLMO2 = changed(QWEN3, "h.ln_1 blk.{i}.post_attention_norm", "h.ln_2 blk.{i}.post_ffw_norm")
AFTER = ("h.ln_1_out blk.{i}.post_attention_norm", "h.ln_2_out blk.{i}.post_ffw_norm")
GEMMA2, GEMMA3 = changed(QWEN2, *AFTER), changed(QWEN3, *AFTER)
PHI3 = changed(GPT_NEOX)
STABLELM_PARALLEL = changed(QWEN2, without="h.ln_2")
ROUTER = "h.mlp.router blk.{i}.ffn_gate_inp"
STACKED = ("h.mlp.c_fc[e] blk.{i}.ffn_{gate,up}_exps", "h.mlp.c_proj[e] blk.{i}.ffn_down_exps")
DENSE = "h.mlp.c_fc h.mlp.c_proj"
LLAMA_EXPERTS = changed(LLAMA, ROUTER, *STACKED, without=DENSE)
QWEN3_EXPERTS = changed(QWEN3, ROUTER, *STACKED, without=DENSE)
QWEN2_EXPERTS = changed(
    QWEN2,
    ROUTER,
    *STACKED,
    "h.mlp.shared.c_fc    blk.{i}.ffn_{gate,up}_shexp",
    "h.mlp.shared.c_proj  blk.{i}.ffn_down_shexp",
    "h.mlp.shared_gate    blk.{i}.ffn_gate_inp_shexp",
    without=DENSE,
)
