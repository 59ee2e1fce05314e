"""TransformerLens' side of interpretability.py: it runs in a Python of its own, and imports no numgpt.

    python lens_patching.py FOLDER THREADS

FOLDER holds a model as transformers loads it, and task.json. Requests are lines of JSON, as contest.py has
them.
"""

import json
import sys
import time
from pathlib import Path

import tokenizers
import torch
import transformers
from transformer_lens import TransformerBridge, patching

PATCHINGS = {
    "resid_pre": patching.get_act_patch_resid_pre,
    "heads": patching.get_act_patch_attn_head_out_by_pos,
}


def booted(folder):
    """The model as its file has it: nothing folded, nothing centred."""
    network = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    )
    words = {str(n): n for n in range(network.config.vocab_size)}
    own = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="0"))
    own.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    special = {"eos_token": "0", "pad_token": "0", "bos_token": "0"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=own, **special).save_pretrained(folder)
    return TransformerBridge.boot_transformers(
        str(folder), hf_model=network, dtype=torch.float32, device="cpu"
    )


def main(folder, threads):
    """Answer what is asked, until nothing more is."""
    torch.set_num_threads(threads)
    task = json.loads((folder / "task.json").read_text("utf-8"))
    clean, corrupted = (torch.tensor([task[name]]) for name in ("clean", "corrupted"))
    model = booted(folder)
    shown, sys.stderr = sys.stderr, open("/dev/null", "w")  # its progress bars  # noqa: SIM115

    def metric(logits):
        return logits[0, -1, task["answer"]] - logits[0, -1, task["wrong"]]

    def patched():
        begin = time.perf_counter()
        with torch.inference_mode():
            _, cache = model.run_with_cache(clean)
            found = PATCHINGS[task["at"]](model, corrupted, cache, metric)
        return {"seconds": time.perf_counter() - begin, "metric": found.flatten().tolist()}

    for line in sys.stdin:
        request = json.loads(line)["do"]
        answer = patched()
        print(json.dumps(answer if request == "first" else {"seconds": answer["seconds"]}), flush=True)
    sys.stderr = shown


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
