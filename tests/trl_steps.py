"""One step of TRL's trainers, for tests/test_trl.py: run by the Python that has TRL, it imports no numgpt.

    python trl_steps.py FOLDER

FOLDER holds model/ and fixed/ as transformers loads them, and steps.json. Each of its steps gets a file in
FOLDER: the loss, every gradient, and the batches as TRL's collator made them.
"""

import json
import sys
from pathlib import Path

import numpy as np
import tokenizers
import torch
import transformers
import trl
from datasets import Dataset


def tokenizer_of(alphabet, end, padding):
    """A token a character, then the end and the padding."""
    words = {word: n for n, word in enumerate([*alphabet, end, padding])}
    own = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token=padding))
    own.pre_tokenizer = tokenizers.pre_tokenizers.Split("", "isolated")
    own.decoder = tokenizers.decoders.Fuse()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=own, eos_token=end, pad_token=padding)


def loaded(folder):
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


class Grads(transformers.TrainerCallback):
    """Keeps the gradients that a step was made of, before anything is done to them."""

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.grads = {name: p.grad.numpy().copy() for name, p in model.named_parameters()}


def kept(trainer):
    """The trainer, with lists of its losses and batches."""
    losses, batches, step = [], [], trainer.training_step

    def training_step(model, inputs, *args, **kwargs):
        batches.append({name: x.numpy() for name, x in inputs.items() if isinstance(x, torch.Tensor)})
        losses.append(float(step(model, inputs, *args, **kwargs)))
        return torch.tensor(losses[-1])

    trainer.training_step = training_step
    return losses, batches


TRAINERS = {
    "sft": (trl.SFTTrainer, trl.SFTConfig),
    "dpo": (trl.DPOTrainer, trl.DPOConfig),
    "kto": (trl.KTOTrainer, trl.KTOConfig),
}


def step(kind, folder, rows, tokenizer, options):
    """The loss of a whole step of a trainer over rows, its gradients and its batches."""
    trainer_class, config_class = TRAINERS[kind]
    given = {
        "output_dir": str(folder / "out"), "max_steps": 1, "max_grad_norm": 0.0, "report_to": "none",
        "save_strategy": "no", "use_cpu": True, "bf16": False, "gradient_checkpointing": False,
        "disable_tqdm": True, "learning_rate": 1e-9,
    }  # fmt: skip
    grads = Grads()
    fixed = {} if kind == "sft" else {"ref_model": loaded(folder / "fixed")}
    trainer = trainer_class(
        model=loaded(folder / "model"),
        args=config_class(**given | options),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        callbacks=[grads],
        **fixed,
    )
    losses, batches = kept(trainer)
    trainer.train()
    return sum(losses), grads.grads, batches


def policy(folder, arrays, tokenizer, options):
    """GRPO's loss of given arrays and its gradients: what a step does once the rollouts are there."""
    config = trl.GRPOConfig(
        output_dir=str(folder / "out"), report_to="none", use_cpu=True, bf16=False,
        gradient_checkpointing=False, per_device_train_batch_size=4, num_generations=2, **options,
    )  # fmt: skip
    model = loaded(folder / "model")
    trainer = trl.GRPOTrainer(
        model=model,
        args=config,
        reward_funcs=lambda completions, **kwargs: [0.0] * len(completions),
        train_dataset=Dataset.from_list([{"prompt": "a"}] * 4),
        processing_class=tokenizer,
    )
    trainer.current_gradient_accumulation_steps = 1
    inputs = {}
    for name, values in arrays.items():
        inputs[name] = torch.tensor(values)  # of floats: float32
    inputs["num_items_in_batch"] = inputs["completion_mask"].sum()
    model.train()
    loss = trainer._compute_loss(model, inputs)
    loss.backward()
    return float(loss), {name: p.grad.numpy() for name, p in model.named_parameters()}, []


def main(folder):
    task = json.loads((folder / "steps.json").read_text("utf-8"))
    tokenizer = tokenizer_of(*task["words"])
    for name, given in task["steps"].items():
        kind, rows, options = given["kind"], given["rows"], given["options"]
        if kind == "grpo":
            loss, grads, batches = policy(folder, rows, tokenizer, options)
        else:
            loss, grads, batches = step(kind, folder, rows, tokenizer, options)
        parts = {f"batch/{n}/{key}": x for n, batch in enumerate(batches) for key, x in batch.items()}
        parts |= {f"grad/{key}": grad for key, grad in grads.items()}
        np.savez(folder / f"{name}.npz", loss=np.float64(loss), **parts)
    print(f"trl {trl.__version__}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
