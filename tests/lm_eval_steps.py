"""What lm-eval says of a task, for tests/test_lm_eval.py: run by the Python that has it, without numgpt.

    python lm_eval_steps.py FOLDER

FOLDER holds model/ as transformers loads it, and tasks of lm-eval in JSON, NAME.yaml. What it measured goes
to FOLDER/found.json: of each task the aggregated measures, and of each question what was asked and answered.
"""

import json
import sys
from pathlib import Path

import torch
import transformers
from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager


def main(folder):
    """Evaluate every task."""
    torch.set_num_threads(1)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float64)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "model")
    lm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=4, device="cpu", dtype="float64")
    names = sorted(path.stem for path in folder.glob("*.yaml"))
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    found = simple_evaluate(
        lm, tasks=names, task_manager=manager, log_samples=True, bootstrap_iters=100, random_seed=0
    )
    says = {
        name: {
            "results": found["results"][name],
            "samples": [
                {"doc": one["doc_id"], "arguments": one["arguments"], "answers": one["resps"]}
                for one in sorted(found["samples"][name], key=lambda one: one["doc_id"])
            ],
        }
        for name in names
    }
    (folder / "found.json").write_text(json.dumps(says, default=str))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
