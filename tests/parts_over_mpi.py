"""What a process of test_parts_over_mpi.py does: steps of models that are cut in each way, over MPI."""

import functools
import sys

from parts_of_models import LIMIT, Texts, drawn, relative_error, whole_step

import numgpt
from numgpt import AdamW, Config
from numgpt.layers import transformer
from numgpt.layers.router_losses import with_router_losses
from numgpt.parallel import mpi_ranks
from numgpt.parallel.data import DataParallel
from numgpt.parallel.experts import ExpertPlan
from numgpt.parallel.pipeline import PipelinePlan
from numgpt.parallel.ranks import Alone
from numgpt.parallel.tensor import TensorPlan
from numgpt.training.objective import held_out_loss

SIZE = {"vocab_size": 65, "block_size": 8, "n_layer": 8, "n_head": 2, "n_embd": 32}
ROUTERS = with_router_losses(0.1, 0.2)
CASES = {
    "pipeline, tied": (PipelinePlan, {}, transformer.loss),
    "pipeline, untied": (PipelinePlan, {"tied": False}, transformer.loss),
    "pipeline, dropout and experts": (PipelinePlan, {"n_expert": 4, "dropout": 0.2}, ROUTERS),
    "experts": (ExpertPlan, {"n_expert": 8, "shared_inner": 16, "n_layer": 2}, ROUTERS),
    "experts, of which one is asked": (
        ExpertPlan,
        {"n_expert": 8, "biases": "router", "n_expert_active": 1, "router": "raw", "n_layer": 2},
        ROUTERS,
    ),
}
SEQUENCE = functools.partial(TensorPlan, sequence=True)
HEADS = {"n_layer": 2, "n_head": 8, "block_size": 9}  # positions and 65 tokens divide by no number of ranks
LLAMA = {"positions": "rotary", "norm": "rmsnorm", "activation": "swiglu", "bias": False, "n_inner": 21}
DROPPED = {"sink": True, "positions": "alibi", "dropout": 0.3}
for which, cut in (("tensor", TensorPlan), ("sequence", SEQUENCE)):
    CASES[f"{which}, tied"] = (cut, HEADS, transformer.loss)
    CASES[f"{which}, LLaMA"] = (cut, HEADS | LLAMA, transformer.loss)
    CASES[f"{which}, sinks, ALiBi and dropout"] = (cut, HEADS | DROPPED, transformer.loss)


def checked(ranks, kind, extra, layer):
    """Raise AssertionError unless two steps over MPI are those of one process."""
    model = drawn(Config(**SIZE | extra))
    if "biases" in extra:
        model.params["h.1.mlp.router.bias"][6] = 50
    objective = Texts(model.config, layer)
    loss, expected = whole_step(model, objective, 8)
    plan = kind(model.config, ranks)
    part = plan.model(model)
    grads = part.params.like()
    ours, _ = plan.loss_and_grads(part, objective, 3, range(8), grads)
    error, name = relative_error(plan.canonical(grads), expected)
    assert error <= LIMIT, f"the gradient of {name} is off by {error:.1e}"
    assert abs(ours - loss) <= LIMIT * loss
    optimizer = AdamW(part.params)
    optimizer.step(grads, 1e-2, norm=plan.norm(grads))
    assert plan.differing(part.params) == []
    whole = AdamW(model)
    whole.step(expected, 1e-2)
    assert abs(plan.canonical(part.params).flat - model.params.flat).max() < 1e-11
    expected_loss = held_out_loss(model, objective)
    assert abs(plan.held_out_loss(part, objective) - expected_loss) < 1e-11


def has_the_bits_of_data_parallel(ranks):
    """Raise AssertionError unless float32 on the engine of users gives the bits of one process."""
    numgpt.use("numba")
    model = drawn(Config(**SIZE), dtype="float32")
    objective, alone = Texts(model.config), DataParallel(Alone())
    expected = alone.begin(model, AdamW(model), 4, {})
    loss, _ = alone.loss_and_grads(model, objective, 3, 4, expected, 1.0)
    plan = PipelinePlan(model.config, ranks, exact=True)
    part = plan.model(model)
    grads = part.params.like()
    ours, _ = plan.loss_and_grads(part, objective, 3, range(4), grads)
    assert ours == loss and (plan.canonical(grads).flat == expected.flat).all()


def main(engine):
    numgpt.use(engine)
    ranks = mpi_ranks.world()
    if engine == "numba":
        has_the_bits_of_data_parallel(ranks)
    for name, case in CASES.items() if engine == "reference" else ():
        checked(ranks, *case)
        if ranks.rank == 0:
            print(name, "on", ranks.size, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
