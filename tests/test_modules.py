"""PyTorch modules as their users have them: any dtype, frozen, compiled, wrapped, and left as they were."""

import sys

import numpy as np
import pytest

from numgpt import GPT, AdamW, Config, InputError, parity

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
import torch_gpt

SIZE = {"vocab_size": 19, "block_size": 8, "n_layer": 2, "n_head": 2, "n_embd": 8}
IDS = np.random.default_rng(0).integers(0, 19, (2, 5))


def model_of(**changes):
    model = GPT(Config(**SIZE | changes))
    model.params.flat += 0.2 * np.random.default_rng(1).standard_normal(model.n_params).astype(np.float32)
    return model


def module_of(kind=torch_gpt.GPT, **fault):
    return kind(**fault).load(model_of().params)


def frozen(module):
    module.transformer.h.requires_grad_(False)
    return module


def compiled(module):
    module.transformer.h[0] = torch.compile(module.transformer.h[0])
    return torch.compile(module)


def compiled_in_place(module):
    module.compile()
    return module


def with_linears_of_ones_own(module):
    class Mine(torch.nn.Linear):
        pass

    for block in module.transformer.h:
        block.attn.c_proj.__class__ = Mine
    return module


def llama_of_transformers(folder):
    """A Llama of transformers with random weights, and ours from its folder."""
    transformers = pytest.importorskip(
        "transformers", minversion="5", reason="transformers 5 is not installed"
    )
    sizes = {"vocab_size": 19, "hidden_size": 24, "intermediate_size": 20, "max_position_embeddings": 16}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 2}
    module = transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes, **heads, pad_token_id=None))
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.3 * torch.randn(parameter.shape)
    module.save_pretrained(folder)
    return module.eval(), GPT.load(folder)


KINDS = {
    "frozen": frozen,
    "all frozen": lambda m: m.requires_grad_(False),
    "training": lambda m: m.train(),
    "compiled": compiled,
    "compiled in place": compiled_in_place,
    "DataParallel": torch.nn.DataParallel,
    "DataParallel of compiled": lambda m: torch.nn.DataParallel(compiled(m)),
    "a Linear of one's own": with_linears_of_ones_own,
}


def state(module):
    tensors = [*module.parameters(), *module.buffers()]
    grads = [x.grad if x.grad is None else x.grad.tolist() for x in tensors]
    parts = [
        (m.training, len(m._forward_hooks), len(m._forward_pre_hooks), sorted(m._buffers))
        for m in module.modules()
    ]
    return [(x.data_ptr(), x.dtype, x.requires_grad, x.tolist()) for x in tensors], grads, parts


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # PyTorch's own, of its compiler
@pytest.mark.parametrize("kind", KINDS)
def test_a_module_is_compared_as_it_is_and_left_as_it_was(kind, dtype):
    module = KINDS[kind](module_of())
    before = state(module)
    found = parity.first_divergence(model_of(), module, dtype=dtype)
    assert found.first is None and len(found.comparison.rows) > 80, str(found)
    assert state(module) == before


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_module_of_half_precision_is_compared_in_the_dtype_asked_for(dtype):
    module = module_of().to(dtype)
    parity.compare(module).check()
    parity.compare(module, dtype="float32").check()
    assert {p.dtype for p in module.parameters()} == {dtype}


@pytest.mark.parametrize("scope", [torch.inference_mode, torch.no_grad])
def test_a_module_is_compared_in_any_scope_of_its_caller(scope):
    module = module_of()
    before = state(module)
    with scope():
        parity.compare(module).check()
    assert state(module) == before


def test_sparse_gradients_are_compared():
    module = module_of()
    module.transformer.wte.sparse = True
    module.lm_head.weight = torch.nn.Parameter(module.lm_head.weight.detach().clone())
    parity.compare(module).check()


def test_parameters_that_are_not_compared_are_warned_of():
    def warnings(module):
        return [text for text in parity.compare(module).warnings if "no name" in text]

    module = module_of()
    assert not warnings(module)
    module.transformer.h[0].crossattention = torch.nn.Linear(3, 3)
    module.gate = torch.nn.Parameter(torch.ones(3))
    names = "gate, transformer.h.0.crossattention.weight, transformer.h.0.crossattention.bias"
    assert warnings(module) == [f"B has {names}, for which numgpt has no name: not compared"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # PyTorch's own, of torch.jit
def test_a_module_that_cannot_be_borrowed_is_one_line():
    with torch.inference_mode():
        inferring = torch.nn.Linear(8, 13, bias=False)
    heads = {
        "lazy parameters": torch.nn.LazyLinear(13, bias=False),
        "built in inference_mode": inferring,
        "a ScriptModule": torch.jit.script(torch.nn.Linear(8, 13, bias=False)),
    }
    for words, head in heads.items():
        module = module_of()
        module.lm_head = head
        with pytest.raises(InputError, match=f"{words}.*expected"):
            parity.compare(module)


def test_a_graph_that_is_still_alive_does_not_shorten_the_gradients():
    module = module_of()
    loss = module(torch.zeros(1, 4, dtype=torch.long), torch.zeros(1, 4, dtype=torch.long))[1]
    parity.compare(module).check()
    loss.backward()
    parity.compare(module).check()


class Returns(torch_gpt.GPT):
    form = None

    def forward(self, idx, targets=None):
        return self.form(*super().forward(idx, targets))


class ReturnsLogits(Returns):
    def forward(self, idx):
        return super().forward(idx, idx)


FORMS = {
    "mapping": lambda logits, loss: {"loss": loss, "logits": logits},
    "loss": lambda logits, loss: loss,
    "loss first": lambda logits, loss: (loss, logits),
    "three": lambda logits, loss: [logits, loss, None],
    "loss (1)": lambda logits, loss: (logits, loss.reshape(1)),
}


@pytest.mark.parametrize("form", FORMS)
def test_what_a_forward_gives_is_understood(form, monkeypatch):
    monkeypatch.setattr(Returns, "form", staticmethod(FORMS[form]))
    parity.compare(module_of(Returns)).check()


@pytest.mark.parametrize(
    "form",
    [
        lambda logits, loss: logits,
        lambda logits, loss: (logits, None),
        lambda logits, loss: {"logits": logits},
    ],
    ids=["logits", "pair", "mapping"],
)
def test_where_a_forward_gives_logits_alone_their_loss_is_taken(form, monkeypatch):
    monkeypatch.setattr(Returns, "form", staticmethod(form))
    for kind in (Returns, ReturnsLogits):
        parity.compare(module_of(kind)).check()


def raises(logits, loss):
    raise KeyError("some\nlines")


NO_USE = {
    "nothing": lambda logits, loss: None,
    "last logits": lambda logits, loss: logits[:, -1:],
    "without gradients": lambda logits, loss: (logits.detach(), loss.detach()),
    "integers": lambda logits, loss: logits.long(),
    "raises": raises,
    "exits": lambda logits, loss: sys.exit("bye"),
}


@pytest.mark.parametrize("form", NO_USE)
def test_what_a_forward_gives_and_cannot_be_used_is_one_line_and_the_module_as_it_was(form, monkeypatch):
    monkeypatch.setattr(Returns, "form", staticmethod(NO_USE[form]))
    module = frozen(module_of(Returns).train())
    optimizer = torch.optim.AdamW(module.parameters())
    before = state(module)
    with pytest.raises(InputError, match="expected") as error:
        parity.first_divergence(model_of(), module, optimizers=(AdamW(model_of(), clip=0), optimizer))
    assert "\n" not in str(error.value) and state(module) == before and not optimizer.state


def test_values_that_a_module_changes_in_place_are_seen_as_they_were():
    class InPlace(torch_gpt.Block):
        def forward(self, x):
            y = self.attn(self.ln_1(x))
            y += x
            z = self.mlp(self.ln_2(y))
            z += y
            return z

    module = module_of(activation=torch.nn.ReLU(inplace=True))
    for block in module.transformer.h:
        block.__class__ = InPlace
    parity.first_divergence(model_of(activation="relu"), module).comparison.check()


def test_a_gradient_that_does_not_reach_its_parameter_differs():
    class Detached(torch.nn.Embedding):
        def forward(self, ids):
            return super().forward(ids).detach()

    module = module_of()
    module.transformer.wpe.__class__ = Detached
    found = parity.first_divergence(model_of(), module)
    assert (found.first.stage, found.first.name) == ("gradient", "wpe.weight"), str(found)


def test_a_step_leaves_what_is_frozen():
    model, module = model_of(), frozen(module_of())
    settings = {"betas": (0.9, 0.95), "weight_decay": 0.1}
    matrices, vectors = (
        [p for p in module.parameters() if (p.ndim > 1) is wanted] for wanted in (True, False)
    )
    right = torch.optim.AdamW(
        [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}],
        lr=torch.tensor(1e-2, dtype=torch.float64),
        **settings,
    )
    found = parity.first_divergence(model, module, optimizers=(AdamW(model, clip=0, **settings), right))
    assert found.first is None and {r.name for r in found.comparison.rows if r.stage == "update"} == {
        "wte.weight",
        "wpe.weight",
        "ln_f.weight",
        "ln_f.bias",
    }


def test_a_module_without_blocks_is_compared():
    parity.compare(torch_gpt.GPT(L=0)).check()


def test_heads_that_a_module_does_not_tell_are_those_of_the_other_side():
    class Quiet(torch_gpt.Attention):
        n_head = property(lambda self: str(self.heads))

        def forward(self, x):
            plain = torch_gpt.Attention(8, self.heads, 0, {})
            plain.c_attn, plain.c_proj = self.c_attn, self.c_proj
            return plain(x)

    module = module_of()
    for block in module.transformer.h:
        block.attn.heads = block.attn.__dict__.pop("n_head")
        block.attn.__class__ = Quiet
    assert parity.first_divergence(model_of(), module).first is None
    with pytest.raises(InputError, match="has no n_head"):
        parity.compare(module)


N = parity.GPT2


@pytest.mark.parametrize(
    "names, said",
    [
        ({"wte": 3}, "expected a mapping, each value a string"),
        (
            N | {"h.{i}.mlp.gelu": "lm_head"},
            "the map of names has h.{i}.mlp.gelu, which numgpt does not have",
        ),
        (N | {"h.{i}.ln_1": "transformer.h.0.ln_1"}, "on both sides or on none"),
        (N | {"h.0.ln_1": "transformer.h.{i}.ln_1"}, "on both sides or on none"),
        (N | {"h.{i}.ln_1": "{i}"}, r"has no \{i\} for h.\{i\}.ln_1"),
        (N | {"h.{i}.ln_1": "nowhere.{i}"}, r"has no nowhere.\{i\} for h.\{i\}.ln_1"),
        (N | {"ln_f": "transformer.wpe.weight"}, "a parameter is named ln_f.weight"),
    ],
)
def test_a_map_of_names_that_does_not_fit_is_one_line(names, said):
    with pytest.raises(InputError, match=said.replace("h.{i}.mlp", r"h.\{i\}.mlp")):
        parity.first_divergence(model_of(), module_of(), names=names)


BATCHES = {
    "lists": (IDS.tolist(), IDS.tolist()),
    "tensors": (torch.tensor(IDS), torch.tensor(IDS)),
    "one row": (IDS[0], IDS[0]),
    "turned": (IDS.T[:, ::-1], IDS.T[:, ::-1]),
    "small integers": (IDS.astype(np.uint8), IDS.astype(np.int16)),
    "some that do not count": (IDS, np.where(IDS > 9, -1, IDS)),
}


@pytest.mark.parametrize("batch", BATCHES)
def test_tokens_may_come_as_lists_arrays_and_tensors(batch):
    assert parity.first_divergence(model_of(), module_of(), *BATCHES[batch]).first is None


@pytest.mark.parametrize(
    "given",
    [
        {"tokens": IDS, "targets": IDS[:, :-1]},
        {"tokens": IDS},
        {"targets": IDS},
        {"tokens": IDS[None], "targets": IDS[None]},
        {"tokens": IDS[:0], "targets": IDS[:0]},
        {"tokens": IDS + 15, "targets": IDS},
        {"tokens": IDS - 1, "targets": IDS},
        {"tokens": IDS * 1.0, "targets": IDS},
        {"tokens": [[1, 2], [3]], "targets": IDS},
        {"tokens": IDS, "targets": 0 * IDS - 1},
        {"tokens": np.zeros((1, 9), int), "targets": np.zeros((1, 9), int)},
        {"shape": (0, 3)},
        {"shape": (-1, 3)},
        {"shape": (2, 0)},
        {"shape": (2, 9)},
        {"shape": (2,)},
        {"shape": "ab"},
        {"shape": (2.5, 3)},
        {"dtype": "float16"},
        {"dtype": "longdouble"},
        {"dtype": "no dtype"},
        {"dtype": None},
        {"optimizers": 3},
        {"optimizers": (AdamW(model_of()), None)},
        {"optimizers": (None, AdamW(model_of()))},
        {"optimizers": (AdamW(model_of()), AdamW(model_of()))},
        {"call": lambda module, tokens, targets: 3},
        {"call": 3},
    ],
    ids=lambda given: " ".join(given),
)
def test_what_cannot_be_run_is_one_line(given):
    with pytest.raises(InputError, match="expected") as error:
        parity.first_divergence(model_of(), module_of(), **given)
    assert "\n" not in str(error.value)


def test_a_token_that_one_side_does_not_have_is_one_line():
    with pytest.raises(InputError, match="tokens has 25 at .*, expected 0 to 18"):
        parity.first_divergence(model_of(vocab_size=30), module_of(), [[25]], [[1]])
    with pytest.raises(InputError, match="is on the meta device"):
        parity.first_divergence(model_of(), module_of().to("meta"))
    with pytest.raises(InputError, match="model is 'gpt2', expected a GPT or a Config"):
        parity.compare(module_of(), "gpt2")


def test_what_a_llama_computes_in_parts_is_compared_side_by_side(tmp_path):
    module, model = llama_of_transformers(tmp_path)
    before = state(module)
    found = parity.first_divergence(model, module, tokens=IDS, targets=IDS, dtype="float32")
    assert found.first is None and found.settings.differing == (), str(found)
    rows = {row.name for row in found.comparison.rows}
    assert {"h.0.attn.c_attn", "h.1.mlp.c_fc", "h.1.mlp.c_fc.weight", "h.0.attn.heads"} <= rows
    assert state(module) == before
    with torch.no_grad():
        module.model.layers[1].self_attn.k_proj.weight[3, 2] += 0.01
    assert (
        parity.first_divergence(model, module, tokens=IDS, targets=IDS, dtype="float32").first.name
        == "h.1.attn.c_attn"
    )
