"""Adapters in PEFT's files: the same function there and here, and one line for what is not read."""

import json
import warnings

import numpy as np
import pytest
from shares import each_time

from numgpt import GPT, Config, Head, InputError, LoRA, Training, tuning
from numgpt.__main__ import main
from numgpt.interchange.mixture_classes import MIXTURES
from numgpt.interchange.peft import CONFIG, MODEL, PICKLED, save
from numgpt.parity import zoo
from numgpt.storage import safetensors_file

SMALL = {"vocab_size": 31, "block_size": 16, "n_layer": 2, "n_head": 4, "n_embd": 16}
LLAMA = {
    "n_kv_head": 2, "positions": "rotary", "norm": "rmsnorm", "activation": "swiglu", "bias": False,
    "tied": False,
}  # fmt: skip
TOKENS = np.random.default_rng(0).integers(0, 19, (2, 9))


def model_of(seed=1, dtype="float64", **changes):
    model = GPT(Config(**SMALL | changes), seed=seed, dtype=dtype)
    model.params.flat += 0.1 * np.random.default_rng(seed).standard_normal(model.n_params)
    return model


def learned(model, seed=2):
    """A model whose adapters are no longer what they began as."""
    rng = np.random.default_rng(seed)
    for name in model.params:
        if name.endswith(("lora_a", "lora_b", "score.weight")):
            model.params[name] = 0.3 * rng.standard_normal(model.params[name].shape)
    return model


FORMS = {
    "GPT-2": ({}, [LoRA(rank=3, alpha=5.0)]),
    "GPT-2, attention": ({}, [LoRA(rank=2, targets=("h.*.attn.c_attn",), rslora=True)]),
    "two ranks": ({}, [LoRA(rank=2, targets=("h.0.*",)), LoRA(rank=3, alpha=1.5, targets=("h.1.*",))]),
    "Llama": (LLAMA, [LoRA(rank=2, by_part=True)]),
    "Llama, one A": (LLAMA, [LoRA(rank=2)]),
    "Llama, a layer": (LLAMA, [LoRA(rank=2, targets=("h.1.attn.c_attn",), by_part=True)]),
    "parallel": ({"norm_position": "parallel2", "positions": "rotary"}, [LoRA(rank=2)]),
}


@pytest.fixture(params=FORMS)
def adapted(request):
    changes, adapters = FORMS[request.param]
    return learned(model_of(**changes).extended(*adapters))


def stripped(model):
    """The model without what it was extended by."""
    base = GPT(model.config, model.seed, model.params.dtype)
    for name in base.params:
        base.params[name] = model.params[name]
    return base


def test_what_is_saved_is_the_same_adapter_when_it_is_loaded(adapted, tmp_path):
    adapted.save(tmp_path / "a", layout="peft")
    again = stripped(adapted).adapted(tmp_path / "a")
    expected = adapted(TOKENS)
    assert abs(again(TOKENS) - expected).max() <= 1e-12 * abs(expected).max()
    again.save(tmp_path / "b", layout="peft")
    for file in (CONFIG, MODEL):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_a_loaded_adapter_has_the_settings_that_it_was_saved_with(adapted, tmp_path):
    adapted.save(tmp_path / "a", layout="peft")
    again = stripped(adapted).adapted(tmp_path / "a")
    if not any(lora.by_part for lora in again.additions) or adapted.additions[0].by_part:
        found = {(a.rank, a.alpha, a.rslora, a.by_part) for a in again.additions}
        assert found == {(a.rank, a.alpha, a.rslora, a.by_part) for a in adapted.additions}
        for name in adapted.params:
            np.testing.assert_array_equal(again.params[name], adapted.params[name])


def test_parts_without_an_adapter_stay_without_one_when_it_is_trained(tmp_path):
    """A = 0 and B = 0 get no gradient: queries and values are trained on, keys are not, as in PEFT."""
    model = learned(model_of(**LLAMA).extended(LoRA(rank=2, targets=("h.*.attn.c_attn",), by_part=True)))
    for name in model.params:
        if name.endswith("lora_a"):
            model.params[name][:, 2:4] = 0
        if name.endswith("lora_b"):
            model.params[name][:, 16:24] = 0
    model.save(tmp_path / "a", layout="peft")
    config = json.loads((tmp_path / "a" / CONFIG).read_text())
    assert config["target_modules"] == ["q_proj", "v_proj"]
    again = stripped(model).adapted(tmp_path / "a")
    optimizer = tuning.optimizer_of(again, Training(steps=1), tuning.trained_names(again))
    for _ in range(3):
        _, grads = again.loss_and_grads(TOKENS[:, :-1], TOKENS[:, 1:])
        optimizer.step({n: grads[n] for n in tuning.trained_names(again)}, lr=1e-2)
    lora_a, lora_b = again.params["h.0.attn.c_attn.lora_a"], again.params["h.0.attn.c_attn.lora_b"]
    assert not lora_a[:, 2:4].any() and not lora_b[:, 16:24].any()
    assert abs(lora_a - model.params["h.0.attn.c_attn.lora_a"]).max() > 1e-3
    again.save(tmp_path / "b", layout="peft")
    assert (tmp_path / "a" / CONFIG).read_bytes() == (tmp_path / "b" / CONFIG).read_bytes()


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_an_adapter_in_fewer_bits_is_rounded_once(tmp_path, dtype):
    model = learned(model_of(dtype="float32").extended(LoRA(rank=2)))
    model.save(tmp_path / "a", layout="peft", dtype=dtype)
    again = stripped(model).adapted(tmp_path / "a")
    for name in model.params:
        if name.endswith(("lora_a", "lora_b")):
            np.testing.assert_array_equal(again.params[name], model.params[name].astype(dtype))


# Held to PEFT itself.


@pytest.fixture(scope="module")
def peft():
    pytest.importorskip("transformers", minversion="5", reason="transformers 5 is not installed")
    return pytest.importorskip("peft", reason="PEFT is not installed")


def adapter_on(peft, torch, module, **settings):
    """A model of transformers with a random adapter of PEFT."""
    wrapped = peft.get_peft_model(module, peft.LoraConfig(**{"r": 3, "lora_alpha": 5} | settings)).eval()
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_" in name or "modules_to_save" in name:
                parameter.copy_(0.3 * torch.randn(parameter.shape))
    return wrapped


def logits_of(torch, module):
    with torch.no_grad():
        return module(torch.tensor(TOKENS)).logits.numpy()


def loaded(peft, module, folder):
    """A model of transformers with the adapter of a folder; an error where PEFT misses an array of it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "Found missing adapter keys")
        return peft.PeftModel.from_pretrained(module, folder).eval()


def bytes_of(folder):
    """Name -> the numbers of an adapter's file."""
    return {name: array.tobytes() for name, (_, array) in safetensors_file.tensors(folder / MODEL).items()}


PATTERNS = {
    "rank_pattern": {"c_fc": 2, "h.0.attn.c_attn": 1},
    "alpha_pattern": {"^transformer.h.1.attn.c_attn": 7.5},
}
# A name of a test -> a case of the zoo, and settings of PEFT.
CASES = {
    "GPT-2": ("GPT-2", {"target_modules": ["c_attn"]}),
    "GPT-2, an expression": ("GPT-2", {"target_modules": r".*h\.1\.(attn\.c_proj|mlp\.c_fc)"}),
    "GPT-2, a layer": ("GPT-2", {"target_modules": ["c_attn"], "layers_to_transform": [1]}),
    "GPT-2, rsLoRA": ("GPT-2", {"target_modules": ["c_attn", "c_fc"], "use_rslora": True}),
    "GPT-2, patterns": ("GPT-2", {"target_modules": ["c_attn", "c_fc"], **PATTERNS}),
    "Llama, queries and values": ("Llama", {"target_modules": ["q_proj", "v_proj"]}),
    "Llama, a gate": ("Llama", {"target_modules": ["gate_proj", "down_proj"], "use_rslora": True}),
    "Mistral": ("Mistral", {"target_modules": ["k_proj", "o_proj", "up_proj"]}),
    "Mixtral, attention": ("Mixtral", {"target_modules": ["q_proj", "o_proj"]}),
}
# All matrices; mixtures have some that have no adapter here, those of experts and the router's.
WHOLE = [name for name, (kind, _) in zoo.CASES.items() if kind not in MIXTURES]
EACH_TIME = ("GPT-2", "Llama", "Helium", "GPT-NeoX", "GPT-J", "CodeGen", "Phi", "Phi-3", "GLM", "Falcon, new")
ALL = {"target_modules": "all-linear"}
LAW = [(name, *case) for name, case in CASES.items()]
LAW += [(f"{name}, all matrices", name, ALL) for name in WHOLE]


@pytest.mark.filterwarnings("ignore")  # of what versions to come will do
@pytest.mark.parametrize(
    ("name", "case", "settings"),
    each_time(LAW, lambda i, row: row[0] in CASES or row[1] in EACH_TIME),
)
def test_an_adapter_of_peft_gives_its_function_here_and_again_there(peft, tmp_path, name, case, settings):
    kind = zoo.CASES[case][0]
    of_kind = zoo.classes(kind)[1]
    attention = "sdpa" if case in zoo.BY_SDPA else "eager"
    with zoo.float64_throughout() as torch:
        module = zoo.reference(case)
        module.save_pretrained(tmp_path / "base")
        wrapped = adapter_on(peft, torch, module, **settings)
        wrapped.save_pretrained(tmp_path / "theirs")
        expected = logits_of(torch, wrapped)
    base = GPT.load(tmp_path / "base")
    ours = base.adapted(tmp_path / "theirs")
    assert zoo.apart(base(TOKENS), expected) > 1e-3
    assert zoo.apart(ours(TOKENS), expected) <= 1e-12
    assert zoo.apart(ours.merged()(TOKENS), expected) <= 1e-12

    save(tmp_path / "again", ours, kind=kind)
    assert bytes_of(tmp_path / "again") == bytes_of(tmp_path / "theirs")
    with zoo.float64_throughout() as torch:
        again = of_kind.from_pretrained(tmp_path / "base", dtype=torch.float64, attn_implementation=attention)
        again.config._experts_implementation = "eager"  # the others know no float64
        found = logits_of(torch, loaded(peft, again, tmp_path / "again"))
    assert zoo.apart(found, expected) <= 1e-12


@pytest.mark.parametrize("kinds", [("llama", "helium"), ("gpt2", "gpt_bigcode")])
def test_columns_lie_as_in_the_class_that_is_named(tmp_path, kinds):
    """These two have the same names; a file that does not say its class is of the first."""
    changes = {"activation": "gelu_tanh"} if kinds[0] == "gpt2" else LLAMA
    base = model_of(**changes)
    model = learned(base.extended(LoRA(rank=2, by_part=kinds[0] == "llama")))
    for kind in kinds:
        save(tmp_path / kind, model, kind=kind)
        assert zoo.apart(base.adapted(tmp_path / kind)(TOKENS), model(TOKENS)) <= 1e-12
    changed(auto_mapping=None)(tmp_path / kinds[1])
    assert zoo.apart(base.adapted(tmp_path / kinds[1], kind=kinds[1])(TOKENS), model(TOKENS)) <= 1e-12
    assert zoo.apart(base.adapted(tmp_path / kinds[1])(TOKENS), model(TOKENS)) > 1e-3
    assert not set(bytes_of(tmp_path / kinds[0])) ^ set(bytes_of(tmp_path / kinds[1]))


@pytest.mark.filterwarnings("ignore")  # of what versions to come will do
@pytest.mark.parametrize("name", FORMS)
def test_an_adapter_of_ours_gives_its_function_in_peft(peft, tmp_path, name):
    import transformers

    changes, adapters = FORMS[name]
    base = model_of(**changes)
    base.save(tmp_path / "base", layout="hf")
    model = learned(base.extended(*adapters))
    model.save(tmp_path / "ours", layout="peft")
    with zoo.float64_throughout() as torch:
        module = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float64)
        found = logits_of(torch, loaded(peft, module, tmp_path / "ours"))
    assert zoo.apart(model(TOKENS), found) <= 1e-12


@pytest.mark.filterwarnings("ignore")  # of what versions to come will do
@pytest.mark.parametrize("case", ["GPT-2", "Llama"])
def test_a_score_layer_beside_an_adapter_is_a_head(peft, tmp_path, case):
    import transformers

    stem = case.replace("-", "")
    of_sequences = getattr(transformers, f"{stem}ForSequenceClassification")
    body, targets = {"GPT-2": ("transformer", ["c_attn"]), "Llama": ("model", ["q_proj"])}[case]
    with zoo.float64_throughout() as torch:
        whole = zoo.reference(case)
        whole.save_pretrained(tmp_path / "base")
        whole.config.num_labels = 3
        module = of_sequences._from_config(whole.config, dtype=torch.float64)
        getattr(module, body).load_state_dict(getattr(whole, body).state_dict())
        wrapped = adapter_on(peft, torch, module, target_modules=targets, task_type="SEQ_CLS")
        wrapped.save_pretrained(tmp_path / "theirs")
        with torch.no_grad():
            rows = [wrapped(torch.tensor(row[None])).logits.numpy()[0] for row in TOKENS]
    model = GPT.load(tmp_path / "base").adapted(tmp_path / "theirs")
    assert model.additions[-1] == Head(labels=("LABEL_0", "LABEL_1", "LABEL_2"), bias=False)
    assert zoo.apart(np.stack(tuning.predictions(model, [*TOKENS])), np.stack(rows)) <= 1e-12
    model.save(tmp_path / "again", layout="peft")
    assert bytes_of(tmp_path / "again") == bytes_of(tmp_path / "theirs")


# What is refused.


def changed(**keys):
    def change(folder):
        path = folder / CONFIG
        path.write_text(json.dumps(json.loads(path.read_text()) | keys))

    return change


def with_arrays(change):
    """Change the arrays of a file: name → array."""

    def rewrite(folder):
        from safetensors.numpy import save_file

        arrays = {n: np.array(a) for n, (_, a) in safetensors_file.tensors(folder / MODEL).items()}
        save_file(change(arrays), folder / MODEL)

    return rewrite


def as_pickle(folder):
    (folder / MODEL).rename(folder / PICKLED)


def without_weights(folder):
    (folder / MODEL).unlink()


def renamed(old, new):
    return with_arrays(lambda arrays: {n.replace(old, new): a for n, a in arrays.items()})


FIRST = "base_model.model.transformer.h.0.attn.c_attn.lora_A.weight"
NAN = np.full((2, 16), np.nan)
REFUSED = {
    "pickle": (
        as_pickle,
        r"adapter_model.bin: is pickled, .* expected adapter_model.safetensors: load it with PEFT",
    ),
    "no weights": (without_weights, r"adapter_model.safetensors: does not exist"),
    "rank 0": (changed(r=0), r"adapter_config.json: r is 0, expected a rank of 1 to 65,536"),
    "rank 3": (changed(r=3), r"lora_A.weight has rank 2, expected 3 as in adapter_config.json"),
    "rank of a pattern": (changed(rank_pattern={"c_attn": 0}), "rank_pattern is 0, expected a rank"),
    "an expression": (
        changed(rank_pattern={"(a+)+": 2}),
        r"rank_pattern is '\(a\+\)\+', expected names of modules",
    ),
    "alpha": (changed(lora_alpha="x"), "lora_alpha is 'x', expected a number"),
    "another kind": (changed(peft_type="IA3"), "peft_type is 'IA3', expected LORA"),
    "DoRA": (changed(use_dora=True), "use_dora is True, expected none or false: numgpt does not compute it"),
    "biases of A and B": (changed(lora_bias=True), "lora_bias is True, expected none or false"),
    "biases": (changed(bias="all"), "bias is 'all', expected none"),
    "PiSSA": (changed(init_lora_weights="pissa"), "init_lora_weights is 'pissa', expected true"),
    "a key of tomorrow": (changed(use_nora=3), "use_nora is 3, expected none or false"),
    "modules": (changed(modules_to_save=["wte"]), r"modules_to_save is \['wte'\], expected none, or score"),
    "no score": (changed(modules_to_save=["score"]), "has no score.weight, expected one"),
    "targets": (
        changed(target_modules=["c_proj"]),
        "adapts transformer.h.0.attn.c_attn, expected what target_modules",
    ),
    "targets of what": (changed(target_modules=3), "target_modules is 3, expected a list of names"),
    "not JSON": (lambda folder: (folder / CONFIG).write_text("{"), "adapter_config.json: "),
    "a list": (lambda folder: (folder / CONFIG).write_text("[]"), "peft_type is None, expected LORA"),
    "a name": (
        renamed("c_attn", "q_proj"),
        "adapts transformer.h.0.attn.q_proj, expected linear maps that a GPT-2",
    ),
    "a layer": (
        renamed("h.1", "h.7"),
        "adapts transformer.h.7.attn.c_attn, .* it is an adapter of another model",
    ),
    "without prefix": (
        renamed("base_model.model.", ""),
        "holds transformer.h.0.attn.c_attn.lora_A.weight, expected",
    ),
    "embeddings": (
        renamed("lora_A.weight", "lora_embedding_A"),
        "holds .*lora_embedding_A, expected names such as",
    ),
    "one half": (
        with_arrays(lambda arrays: {n: a for n, a in arrays.items() if n != FIRST}),
        "h.0.attn.c_attn has lora_b alone, expected both",
    ),
    "a shape": (
        with_arrays(lambda arrays: arrays | {FIRST: np.zeros((2, 17))}),
        r"lora_A.weight has shape \(2, 17\), expected \(r, 16\): it is an adapter of another model",
    ),
    "NaN": (with_arrays(lambda arrays: arrays | {FIRST: NAN}), "c_attn.lora_a holds NaN, infinity or"),
    "none": (with_arrays(lambda arrays: {}), "holds no adapter, expected at least one"),
    "damage": (
        lambda folder: (folder / MODEL).write_bytes(b"\xff" * 20),
        "adapter_model.safetensors: is damaged",
    ),
}


@pytest.fixture(scope="module")
def small():
    return model_of()


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_adapter_of_this_model_is_refused_in_one_line(small, tmp_path, case):
    damage, words = REFUSED[case]
    small.extended(LoRA(rank=2, targets=("h.*.attn.c_attn",))).save(tmp_path / "a", layout="peft")
    damage(tmp_path / "a")
    with pytest.raises(InputError, match=words) as error:
        small.adapted(tmp_path / "a")
    assert "\n" not in str(error.value)


def test_parts_of_one_matrix_have_one_rank(tmp_path):
    model = model_of(**LLAMA)
    model.extended(LoRA(rank=2, by_part=True)).save(tmp_path / "a", layout="peft")
    changed(alpha_pattern={"k_proj": 3})(tmp_path / "a")
    with pytest.raises(InputError, match=r"k_proj rank 2, alpha 3.* expected one for all of these"):
        model.adapted(tmp_path / "a")


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (
            lambda m, p: m.adapted(p / "none"),
            "adapter_config.json: does not exist, expected that of an adapter",
        ),
        (lambda m, p: m.adapted(p / "a", kind="gtp2"), r"kind is 'gtp2' \(did you mean gpt2"),
        (lambda m, p: m.adapted(p / "a", kind="llama"), "with its other settings no class of transformers"),
        (lambda m, p: GPT.load(p / "a"), "is an adapter of PEFT, expected a model: load the one"),
        (lambda m, p: m.adapted(p / "a").adapted(p / "a"), "there is a h.0.attn.c_attn.lora_a already"),
        (
            lambda m, p: m.save(p / "b", layout="peft"),
            "save: the model has no adapter, expected one for PEFT",
        ),
        (
            lambda m, p: m.extended(LoRA(), Head(task="reward")).save(p / "b", layout="peft"),
            r"save: the model's head reads last and has a bias, expected Head\(…, pool='last', bias=False\)",
        ),
        (
            lambda m, p: m.extended(LoRA(targets=("h.0.*",)), LoRA(targets=("h.1.*",), rslora=True)).save(
                p / "b", layout="peft"
            ),
            "some adapters have rslora and some not",
        ),
        (
            lambda m, p: m.extended(LoRA(by_part=True)).save(p / "b", layout="peft"),
            "h.0.attn.c_attn has 3 adapters by part, expected one, for transformer.h.0.attn.c_attn is one",
        ),
        (
            lambda m, p: (
                (p / "a" / "notes.txt").write_text("mine") and m.adapted(p / "a").save(p / "a", layout="peft")
            ),
            "exists and is not just adapter_config.json and adapter_model.safetensors",
        ),
    ],
)
def test_what_cannot_be_done_with_an_adapter_is_said_in_one_line(small, tmp_path, act, words):
    small.extended(LoRA(rank=2)).save(tmp_path / "a", layout="peft")
    with pytest.raises(InputError, match=words):
        act(small, tmp_path)
    assert not (tmp_path / "b").exists()


def test_commands_read_and_write_adapters(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = learned(model_of(dtype="float32").extended(LoRA(rank=2)))
    stripped(model).save("base")
    model.save("adapted")
    assert main(["convert", "adapted", "adapter", "--to", "peft"]) == 0
    assert main(["convert", "base", "merged", "--adapter", "adapter", "--merge"]) == 0
    assert main(["convert", "base", "both", "--adapter", "adapter"]) == 0
    expected = model(TOKENS)
    assert GPT.load("merged").additions == () and len(GPT.load("both").additions) == 1
    assert abs(GPT.load("merged")(TOKENS) - expected).max() <= 1e-5 * abs(expected).max()
    np.testing.assert_array_equal(GPT.load("both")(TOKENS), expected)
    capsys.readouterr()
    assert main(["sample", "adapter"]) == 2
    assert "is an adapter of PEFT, expected a model" in capsys.readouterr().err
    assert main(["convert", "base", "adapter", "--adapter", "adapter", "--to", "peft"]) == 2


def test_sampling_with_an_adapter_is_sampling_from_the_adapted_model(tmp_path, capsys):
    model = GPT.load("numgpt:tiny").extended(LoRA(rank=2))
    learned(model).save(tmp_path / "both")
    model.save(tmp_path / "adapter", layout="peft")
    texts = []
    for words in (
        ["numgpt:tiny", "--adapter", str(tmp_path / "adapter")],
        [str(tmp_path / "both")],
        ["numgpt:tiny"],
    ):
        assert main(["sample", *words, "--max-new-tokens", "20", "--prompt", "She"]) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] != texts[2]
