"""Every setting in which two models, their optimizers or their runs differ is said, and no other."""

import dataclasses
import json
import re

import pytest

from numgpt import GPT, AdamW, Config, InputError, Training, parity
from numgpt.__main__ import main
from numgpt.interchange import checkpoint, llmc
from numgpt.parity.settings import shown

SIZE = {"vocab_size": 12, "block_size": 8, "n_layer": 1, "n_head": 2, "n_embd": 8}
STATE = {
    "updates": 1,
    "best": 2.0,
    "held_out": 2.0,
    "source": "x.txt",
    "recipe": {"split": "tail"},
    "digest": "d",
}


# Values of fields whose default says nothing of what they may be.
VALUES = {
    "rotary_dim": 2,
    "rotary_scaling": {"kind": "linear", "factor": 2},
    "n_kv_head": 1,
    "head_dim": 6,
    "biases": "qkv",
    "layers": ({"window": 3},),
}
# The beginning of a field's name → what a model has that reads it.
READ_BY = {
    "rotary_": {"positions": "rotary"},
    "alibi_": {"positions": "alibi"},
    "n_expert_": {"n_expert": 4},
    "router": {"n_expert": 4},
    "shared_inner": {"n_expert": 4},
}
READ_IN_TRAINING_BY = {"masters": {"precision": "bf16"}}


def changed(settings, field):
    """The settings with another value of one field; None where it has one alone."""
    value = getattr(settings, field.name)
    if field.name in VALUES:
        new = VALUES[field.name]
    elif field.metadata["choices"]:
        others = [choice for choice in field.metadata["choices"] if choice != value]
        new = others[0] if others else None
    elif isinstance(value, bool):
        new = not value
    elif isinstance(value, float):
        new = value / 2 + 0.125
    else:
        new = 2 * (value or 5)
    return None if new is None else dataclasses.replace(settings, **{field.name: new})


def pairs(settings):
    """(a field, settings, others that differ from them in it), by the field's name."""
    for field in dataclasses.fields(settings):
        starts = READ_BY if isinstance(settings, Config) else READ_IN_TRAINING_BY
        reader = next((changes for start, changes in starts.items() if field.name.startswith(start)), {})
        base = dataclasses.replace(settings, **reader)
        other = changed(base, field)
        if other is not None:
            yield pytest.param(field.name, base, other, id=field.name)


def names_of(settings):
    return [s.name for s in settings.differing]


def with_effects(name):
    """The settings that follow from one: a feed-forward is four times as wide as the channels."""
    return ["n_embd", "n_inner"] if name == "n_embd" else [name]


@pytest.mark.parametrize("name, base, other", [*pairs(Config(**SIZE))])
def test_a_field_of_the_config_is_said_wherever_it_is_read(name, base, other, tmp_path, capsys):
    a, b = GPT(base), GPT(other)
    a.save(tmp_path / "a")
    b.save(tmp_path / "b")
    (tmp_path / "a" / "model.safetensors").unlink()  # weights are not read
    for left, right in ((a, b), (a.config, b.config), (tmp_path / "a", tmp_path / "b"), (a, tmp_path / "b")):
        assert names_of(parity.compare_settings(left, right)) == with_effects(name)
    paths = [str(tmp_path / "a"), str(tmp_path / "b")]
    assert main(["diff", "--configs", *paths]) == 1
    table = capsys.readouterr().out.split("settings that differ")[1].splitlines()[1:]
    (row,) = [line.split(maxsplit=1) for line in table if line.split()[0] == name]
    cells = [shown(getattr(c, name if name != "n_inner" else "ffn_width")) for c in (a.config, b.config)]
    assert re.fullmatch(r" +".join(map(re.escape, cells)), row[1])
    assert main(["diff", "--configs", paths[0], paths[0]]) == 0
    assert "no setting differs of the" in capsys.readouterr().out


@pytest.mark.parametrize("name, base, other", [*pairs(Training(lr=0.5, min_lr=0.1))])
def test_a_field_of_a_runs_training_is_said(name, base, other, tmp_path):
    for folder, training in (("a", base), ("b", other)):
        GPT(Config(**SIZE)).save(tmp_path / folder / "last")
        state = STATE | {"training": dataclasses.asdict(training)}
        (tmp_path / folder / "last" / "state.json").write_text(json.dumps(state))
    checkpoint.save(tmp_path / "a" / "best", GPT(Config(**SIZE)))  # a run's best does not hold its training
    for a, b in (("a", "b"), ("a/last", "b/last")):
        found = parity.compare_settings(tmp_path / a, tmp_path / b)
        assert names_of(found) == [f"training.{name}"] and "training.lr" not in found.only_b
    report = parity.first_divergence(tmp_path / "a", tmp_path / "b")
    assert report.first is None and f"training.{name}" in str(report)


def test_what_a_default_stands_for_is_no_difference():
    explicit = {"n_kv_head": 2, "head_dim": 4, "rotary_dim": 4, "n_inner": 32}
    rotary = Config(**SIZE, positions="rotary")
    assert not names_of(parity.compare_settings(rotary, dataclasses.replace(rotary, **explicit)))


def test_a_model_of_transformers_and_of_llmc_say_what_they_hold(tmp_path):
    model = GPT(Config(**SIZE))
    model.save(tmp_path / "hf", layout="hf")
    llmc.save_model(tmp_path / "model.bin", model)
    for other in (tmp_path / "hf", tmp_path / "model.bin", tmp_path / "hf" / "config.json"):
        assert names_of(parity.compare_settings(model, other)) == []
    path = tmp_path / "hf" / "config.json"
    stored = json.loads(path.read_text())
    for change, said in (
        ({"attn_pdrop": 0.25, "resid_pdrop": 0.25, "embd_pdrop": 0.25}, ["dropout"]),
        ({"layer_norm_epsilon": 1e-6, "activation_function": "gelu"}, ["activation", "layer_norm_epsilon"]),
        ({"bos_token_id": 3}, []),  # numgpt says none
    ):
        path.write_text(json.dumps(stored | change))
        assert sorted(names_of(parity.compare_settings(model, tmp_path / "hf"))) == said
    # a GPT-2 that is not computed here, and a model of another kind
    for change in (
        {"scale_attn_by_inverse_layer_idx": True},
        {"model_type": "llama", "rope": {"theta": 1e4}},
    ):
        path.write_text(json.dumps(stored | change))
        other = parity.compare_settings(stored, tmp_path / "hf")
        assert {*names_of(other), *other.only_b} >= {"model_type" if "rope" in change else next(iter(change))}
    with pytest.raises(InputError, match="does not exist, expected a checkpoint's folder"):
        parity.compare_settings(model, tmp_path / "nothing")
    with pytest.raises(InputError, match="int has none that can be read, expected a GPT"):
        parity.compare_settings(model, 3)


SETTINGS = {"betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1, "lr": 1e-2}
CHANGES = {
    "betas": {"betas": (0.9, 0.999)},
    "eps": {"eps": 1e-6},
    "weight_decay": {"weight_decay": 0.01},
    "lr": {"lr": 1e-3},
    "amsgrad": {"amsgrad": True},
    "maximize": {"maximize": True},
    "decays": {},
}


@pytest.mark.parametrize("name", [*CHANGES, "nothing"])
def test_an_optimizers_setting_is_said_though_a_first_step_does_not_show_it(name):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    import torch_gpt

    model = GPT(Config(vocab_size=19, block_size=8, n_layer=2, n_head=2, n_embd=8))
    module = torch_gpt.GPT().load(model.params)
    settings = SETTINGS | CHANGES.get(name, {})
    decay = 0.0 if name != "decays" else settings["weight_decay"]
    matrices, vectors = (
        [p for p in module.parameters() if (p.ndim > 1) is is_matrix] for is_matrix in (True, False)
    )
    groups = [{"params": matrices}, {"params": vectors, "weight_decay": decay}]
    ours = AdamW(model, betas=(0.9, 0.95), weight_decay=0.1, clip=0)
    optimizers = ours, torch.optim.AdamW(groups, **settings)
    said = [] if name == "nothing" else [f"optimizer.{name}"]
    settings = parity.compare_settings(model, module, optimizers=optimizers, lr=1e-2)
    assert names_of(settings) == ["dropout", *said]
    if name in ("betas", "nothing"):  # of which a first step is independent
        found = parity.first_divergence(model, module, optimizers=optimizers, lr=1e-2)
        assert found.first is None and found.settings.differing == settings.differing
        assert all(line in str(found).splitlines() for line in found.settings.lines(alone=False))


def test_a_module_says_its_dropout_and_what_its_config_holds():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    import torch_gpt

    model = GPT(Config(vocab_size=19, block_size=8, n_layer=2, n_head=2, n_embd=8, dropout=0.1))
    module = torch_gpt.GPT().load(model.params)
    for part in module.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.3
    (said,) = parity.compare_settings(model, module).differing
    assert str(said) == "dropout is 0.1 in A, 0.3 in B"
    assert names_of(parity.compare_settings(module, model)) == ["dropout"]
    module.transformer.drop.p = 0.1
    (said,) = parity.compare_settings(model, module).differing
    assert str(said) == "dropout is 0.1 in A, (0.1, 0.3) in B"
