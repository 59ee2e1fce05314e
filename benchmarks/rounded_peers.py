"""Others that decode with rounded weights, each run by the Python of an environment of its own."""

import tempfile
from pathlib import Path

GROUP = 64  # torchao's inputs that share a scale at 4 bits, as numgpt's
# llama.cpp's formats: both round 32 inputs at a time. The norms, biases and positions stay floats.
FORMATS = {8: "Q8_0", 4: "Q4_0"}


def torchao_run(model, start, tokens, threads, bits):
    """The plain GPT of torch_gpt.py, its matrices and its head rounded by torchao: (generate, logits).

    In bfloat16, in which torchao's products are fastest on a CPU, and those of 4 bits run at all.
    """
    import torch
    import torch_gpt
    from torchao.prototype.quantization.int4 import PrototypeInt4WeightOnlyConfig
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    torch.set_num_threads(threads)
    net = torch_gpt.GPT(model.config).eval()
    net.load(dict(model.params.items()))
    head = torch.nn.Linear(model.config.n_embd, model.config.vocab_size, bias=False)
    head.weight.data.copy_(net.wte.weight.data)
    net.head = head
    net = net.to(torch.bfloat16)
    if bits == 4:  # not the head: of 4 bits torchao multiplies multiples of 16 outputs only
        quantize_(net.blocks, PrototypeInt4WeightOnlyConfig(group_size=GROUP))
    quantize_(net.head if bits == 4 else net, Int8WeightOnlyConfig())
    net.logits = net.head  # in the place of the embedding's rows
    ids = torch.from_numpy(start)
    with torch.inference_mode():
        logits = net.next_logits(ids, [None] * model.config.n_layer, 0)[0].float().tolist()
    return lambda: net.generate(ids, tokens), logits


def llama_run(model, start, tokens, threads, bits):
    """llama.cpp with the same weights in its own format, greedily: (generate, logits)."""
    import llama_cpp
    import numpy as np

    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "model.gguf")
        write_gguf(model, path, FORMATS[bits])
        llama = llama_cpp.Llama(
            path, n_ctx=start.shape[1] + tokens + 1, n_threads=threads, logits_all=False, verbose=False
        )
    prompt = start[0].tolist()

    def run():
        """As generate() does, without what makes text of ids."""
        llama.reset()
        llama.eval(prompt)
        for _ in range(tokens):
            llama.eval([int(np.argmax(last_logits()))])

    def last_logits():
        """Of the token that follows."""
        pointer = llama_cpp.llama_get_logits_ith(llama.ctx, -1)
        return np.ctypeslib.as_array(pointer, shape=(model.config.vocab_size,))

    llama.eval(prompt)
    return run, last_logits().tolist()


def write_gguf(model, path, kind):
    """A GPT-2 of ours as a GGUF file, its matrices rounded by the gguf package; it has no tokenizer."""
    import gguf

    c, rounded = model.config, gguf.GGMLQuantizationType[kind]
    writer = gguf.GGUFWriter(path, "gpt2")
    writer.add_context_length(c.block_size)
    writer.add_embedding_length(c.n_embd)
    writer.add_block_count(c.n_layer)
    writer.add_feed_forward_length(c.ffn_width)
    writer.add_head_count(c.n_head)
    writer.add_layer_norm_eps(c.layer_norm_epsilon)
    writer.add_vocab_size(c.vocab_size)
    writer.add_tokenizer_model("no_vocab")
    names = {"wte": "token_embd", "wpe": "position_embd", "ln_f": "output_norm"}
    inside = {
        **{"ln_1": "attn_norm", "attn.c_attn": "attn_qkv", "attn.c_proj": "attn_output"},
        **{"ln_2": "ffn_norm", "mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down"},
    }
    names |= {
        f"h.{i}.{ours}": f"blk.{i}.{theirs}" for i in range(c.n_layer) for ours, theirs in inside.items()
    }
    for name, value in model.params.items():
        owner, _, part = name.rpartition(".")
        value = value.T.copy() if owner.startswith("h.") and value.ndim == 2 else value
        if value.ndim == 2 and owner != "wpe":
            data = gguf.quants.quantize(value, rounded)
            writer.add_tensor(f"{names[owner]}.{part}", data, raw_dtype=rounded)
        else:
            writer.add_tensor(f"{names[owner]}.{part}", value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
