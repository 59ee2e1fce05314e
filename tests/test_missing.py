"""A gradient that does not arrive is called missing: where it is cut, and how much of it arrives."""

import numpy as np
import pytest

from numgpt import GPT, Config, parity
from numgpt.parity import rounding
from numgpt.parity.comparison import first, rows

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
import torch_gpt

SIZE = {"vocab_size": 19, "block_size": 8, "n_layer": 2, "n_head": 2, "n_embd": 8}
IDS = np.random.default_rng(0).integers(0, 19, (2, 2, 8))


def model_of(**changes):
    model = GPT(Config(**SIZE | changes))
    model.params.flat += 0.2 * np.random.default_rng(1).standard_normal(model.n_params).astype(np.float32)
    return model


def by_detach(x):
    return x.detach()


def by_a_cast(x):
    """Through an array and back, as whoever calls a library without gradients does."""
    return torch.from_numpy(x.detach().numpy().copy())


def by_an_edit_in_place(x):
    """A new tensor, filled by hand."""
    filled = torch.zeros_like(x)
    filled.data.copy_(x)
    return filled


def of_half(x):
    """A gradient for the first half of the channels alone."""
    half = x.shape[-1] // 2
    return torch.cat([x[..., :half], x[..., half:].detach()], -1)


def of_a_row(x):
    """A gradient for all positions but the last."""
    return torch.cat([x[:, :-1], x[:, -1:].detach()], 1)


def of_one_element(x):
    """A gradient for all elements but one."""
    keep = torch.ones(x.shape[-1], dtype=torch.bool)
    keep[3] = False
    return torch.where(keep, x, x.detach())


WHOLE = {f.__name__: f for f in (by_detach, by_a_cast, by_an_edit_in_place)}
PARTS = {
    "indices 4–7 of axis 2": of_half,
    "index 7 of axis 1": of_a_row,
    "index 3 of axis 2": of_one_element,
}
# The values of the model whose gradients may be cut, and the parts of the module that give them.
GIVEN_BY = {
    "wte": "transformer.wte",
    "drop": "transformer.drop",
    "h.0.ln_1": "transformer.h.0.ln_1",
    "h.0.attn.c_attn": "transformer.h.0.attn.c_attn",
    "h.0.attn.c_proj": "transformer.h.0.attn.c_proj",
    "h.0.attn": "transformer.h.0.attn",
    "h.1.ln_2": "transformer.h.1.ln_2",
    "h.1.mlp.c_fc": "transformer.h.1.mlp.c_fc",
    "h.1.mlp.act": "transformer.h.1.mlp.act",
    "h.1.mlp": "transformer.h.1.mlp",
    "h.0": "transformer.h.0",
    "ln_f": "transformer.ln_f",
}
# A value that follows from one alone, so that it has no gradient either.
BEHIND = {"h.0.attn.c_attn": "h.0.attn.heads", "h.0.attn.c_proj": "h.0.attn", "h.1.mlp.c_fc": "h.1.mlp.act"}
# The parts that use a value.
USED_BY = {
    "drop": "transformer.h.0",
    "h.0.ln_1": "transformer.h.0.attn",
    "h.1.ln_2": "transformer.h.1.mlp",
    "h.1.mlp.c_fc": "transformer.h.1.mlp.act",
    "h.0": "transformer.h.1",
    "ln_f": "lm_head",
}


def module_for(model, changes=()):
    """A module of PyTorch for a model; changes: (a part's name, how what it gives or takes is changed)."""
    module = torch_gpt.GPT().load(model.params)
    for place, how, given in changes:
        part = module
        for name in place.split("."):
            part = part[int(name)] if name.isdigit() else getattr(part, name)
        if given:
            part.register_forward_hook(lambda part, inputs, output, how=how: how(output))
        else:
            part.register_forward_pre_hook(lambda part, inputs, how=how: (how(inputs[0]), *inputs[1:]))
    return module


@pytest.fixture(scope="module", params=["float64", "float32"])
def known(request):
    """numgpt's own run of the batch, and what rounding explains of it."""
    model, dtype = model_of(), request.param
    form = parity.sides.Ours(model).form
    return model, dtype, form.run(*IDS, dtype), rounding.explained(form, *IDS, dtype)


def differing(known, module):
    """The first row in which a module differs from the model that is known."""
    _, dtype, run, limits = known
    return first(rows(run, parity.sides.Theirs(module).run(*IDS, dtype), limits, dtype))


@pytest.mark.parametrize("how", WHOLE)
@pytest.mark.parametrize("name", GIVEN_BY)
def test_a_gradient_that_is_cut_is_called_missing_where_it_is_cut(name, how, known):
    row = differing(known, module_for(known[0], [(GIVEN_BY[name], WHOLE[how], True)]))
    nearest = BEHIND.get(name, name)
    assert (row.stage, row.name, row.verdict) == ("gradient", nearest, "MISSING"), str(row)
    assert "missing in B: none of its" in row.missing


def test_a_cut_is_placed_where_it_is():
    model = model_of()
    for name in BEHIND:
        compared = parity.compare(module_for(model, [(GIVEN_BY[name], by_detach, True)]))
        assert compared.cut == f"where {name} is computed"
    compared = parity.compare(module_for(model, [(USED_BY["h.1.mlp.c_fc"], by_detach, False)]))
    assert compared.cut == "where h.1.mlp.act is computed"
    assert parity.compare(module_for(model)).cut == ""


@pytest.mark.parametrize("how", PARTS)
@pytest.mark.parametrize("name", USED_BY)
def test_the_share_that_a_gradient_reaches_is_said(name, how, known):
    row = differing(known, module_for(known[0], [(USED_BY[name], PARTS[how], False)]))
    assert (row.stage, row.name, row.verdict) == ("gradient", name, "MISSING"), str(row)
    wide = how.replace("4–7", "16–31") if name == "h.1.mlp.c_fc" else how
    assert row.missing.startswith("missing in B: ") and row.missing.endswith(f"reached, but not {wide}"), str(
        row
    )


def test_nothing_is_missing_of_the_same_model(known):
    model, dtype, run, limits = known
    compared = rows(run, parity.sides.Theirs(module_for(model)).run(*IDS, dtype), limits, dtype)
    assert not [str(r) for r in compared if not r.agrees or r.missing]


def test_the_report_names_the_cut_all_that_is_missing_and_the_worst_element():
    model = model_of()
    found = parity.first_divergence(model, module_for(model, [("transformer.h.1.attn", by_detach, True)]))
    report = str(found)
    assert "11 gradients missing" in found.comparison.summary and found.causes == ()
    assert "the gradient is cut where h.1.attn is computed, by detach, no_grad, .data, a cast," in report
    assert "h.1.attn, h.1.attn.c_proj, h.1.attn.c_proj.weight, … h.1.ln_1.weight, h.1.ln_1.bias" in report
    with pytest.raises(
        AssertionError, match=r"at gradient h.1.attn: .* MISSING missing in B: none of its 128"
    ):
        parity.compare(module_for(model, [("transformer.h.1.attn", by_detach, True)])).check()

    def worse(x):
        far = torch.zeros_like(x)
        far[0, 5, 2], far[1, 3, 7] = 1e-3, -2e-3
        return x + far

    worst = differing_of(model, [("transformer.h.0.mlp", worse, True)])
    assert worst.name == "h.0" and worst.worst.startswith("most at [1, 3, 7]: "), str(worst)


def differing_of(model, changes):
    return parity.compare(module_for(model, changes)).first


DEGENERATE = {
    "a matrix of zeros": (
        lambda params: params["h.1.mlp.c_proj.weight"].fill(0),
        "gradients that say little, each is 0 everywhere: h.1.mlp.act, h.1.mlp.c_fc",
    ),
    "embeddings that are one": (
        lambda params: (params["wte.weight"].fill(0.5), params["wpe.weight"].fill(0)),
        "values that say little, each is 0.5 everywhere: wte",
    ),
    "constant rows": (
        lambda params: params["wte.weight"].__setitem__(..., params["wte.weight"][:, :1]),
        "values that say little, each is constant along its last axis in 16 of 16 rows: wte",
    ),
}


@pytest.mark.parametrize("case", DEGENERATE)
def test_what_hides_mistakes_is_warned_of(case):
    model, (change, said) = model_of(), DEGENERATE[case]
    change(model.params)
    compared = parity.compare(module_for(model))
    assert said in "\n".join(compared.warnings) and f"warning: {said}" in str(compared)
    assert not parity.compare(module_for(model_of())).warnings


def test_what_is_not_compared_is_warned_of():
    model = model_of()
    tokens = np.full((2, 8), 3)
    assert "all tokens are the same" in " ".join(
        parity.compare(module_for(model), None, tokens, tokens).warnings
    )

    module = module_for(model)
    for block in module.transformer.h:  # as a fused function takes the weights of a part
        linear = torch.nn.functional.linear
        up = block.mlp.c_fc
        block.mlp.forward = lambda x, mlp=block.mlp, up=up: mlp.dropout(
            mlp.c_proj(mlp.act(linear(x, up.weight, up.bias)))
        )
    compared = parity.compare(module)
    compared.check()
    assert compared.warnings == ("B does not call h.0.mlp.c_fc, h.1.mlp.c_fc: their values are not compared",)
    untied = model_of(tied=False)
    (said,) = parity.first_divergence(model, untied).comparison.warnings
    assert said == "B alone has lm_head.weight: not compared"


def test_logits_that_are_returned_for_a_look_need_no_gradient():
    class Looked(torch_gpt.GPT):
        def forward(self, idx, targets=None):
            logits, loss = super().forward(idx, targets)
            return logits.detach(), loss

    module = Looked().load(model_of().params)
    names = {name: path for name, path in parity.GPT2.items() if name != "lm_head"}
    parity.compare(module, names=names | {"lm_head.weight": "lm_head.weight"}).check()
