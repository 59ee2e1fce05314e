"""Files of traces: equal to the bit when read again, whoever wrote them, or refused in one line."""

import json

import numpy as np
import pytest
import safetensors.numpy
from damage import damaged_json
from hypothesis import HealthCheck, given, settings
from safetensors import safe_open
from test_traces import TARGETS, TOKENS, model_of

from numgpt import AdamW, InputError, Trace, tokenizers
from numgpt.traces import schema

SCHEMA = {"schema": "numgpt.trace/1"}


def everything(dtype="float64"):
    """A trace of all that a trace may hold."""
    model = model_of({}, dtype)
    model.tokenizer = tokenizers.Characters("\nabc¶éü")
    optimizer = AdamW(model)
    optimizer.step(model.loss_and_grads(TOKENS, TARGETS)[1], lr=0.1)
    record = model.record(TOKENS, TARGETS, edit={"h.0.mlp": lambda a: 2 * a})
    reference = {"h.0": record.value["h.0"] + np.nan, "loss": np.array(3.0)}
    return record.trace(differences=1, reference=reference, moments=optimizer.state())


def content(thing):
    """What a trace holds, to be compared by ==, down to the bits and the order of names."""
    if isinstance(thing, np.ndarray):
        return [str(thing.dtype), thing.shape, thing.tobytes()]
    if isinstance(thing, dict):
        return {name: content(part) for name, part in thing.items()}
    if isinstance(thing, tuple | list):
        return [type(thing), *map(content, thing)]
    return content(vars(thing)) if hasattr(thing, "__dict__") else thing


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_trace_that_is_saved_and_read_is_equal_to_the_bit(dtype, tmp_path, each_engine):
    trace = everything(dtype)
    trace.save(tmp_path / "trace.safetensors")
    again = Trace.read(tmp_path / "trace.safetensors")
    assert content(again) == content(trace)
    for field in ("value", "grad", "steps", "axes", "ids"):
        assert list(getattr(again, field)) == list(getattr(trace, field))
    assert all(getattr(trace, field) for field in vars(trace)), "a field that is empty shows nothing"
    assert repr(again.table()) == repr(trace.table())


@pytest.mark.parametrize("dtype", ["longdouble", "complex128"])
def test_a_dtype_that_the_format_lacks_is_refused_and_nothing_is_written(dtype, tmp_path):
    trace = model_of({}, dtype).record(TOKENS, TARGETS).trace()
    with pytest.raises(InputError, match=r"save: value/wte has dtype .*, expected one that safetensors has"):
        trace.save(tmp_path / "trace")
    assert list(tmp_path.iterdir()) == []


def test_a_name_with_a_slash_is_not_written(tmp_path):
    with pytest.raises(InputError, match="a name with a slash in 'value/a/b'"):
        Trace(value={"a/b": np.ones(2)}).save(tmp_path / "trace")


def test_where_no_file_can_be_written_or_is_to_be_read_is_one_line(tmp_path):
    with pytest.raises(InputError, match="is a folder, expected a file to write"):
        Trace().save(tmp_path)
    with pytest.raises(InputError, match="does not exist"):
        Trace.read(tmp_path / "trace")


# Written by others.


def written(path, arrays, metadata=SCHEMA, **content):
    """A file with such arrays and such JSON, as any program may write one."""
    metadata = metadata | ({"trace": json.dumps(content)} if content else {})
    safetensors.numpy.save_file(arrays, path, metadata)
    return path


def test_a_file_with_arrays_alone_is_a_trace(tmp_path):
    value, grad = np.random.default_rng(0).standard_normal((2, 2, 3)).astype("float32")
    path = written(
        tmp_path / "x", {"value/h.0": value, "gradient/h.0": grad, "value/loss": np.float32([2.5])[0:1]}
    )
    trace = Trace.read(path)
    assert content(trace.value["h.0"]) == content(value)
    assert content(trace.grad["h.0"]) == content(grad)
    (row, _) = trace.table().rows
    assert row.axes == ("2", "3") and row.value == pytest.approx(np.linalg.norm(value))


def test_what_a_hook_of_pytorch_saves_is_a_trace_in_bfloat16_too(tmp_path):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed, which writes the file")
    from safetensors.torch import save_file

    values = {}
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU()).to(torch.bfloat16)
    for name, module in net.named_children():
        module.register_forward_hook(lambda m, x, y, name=name: values.update({f"value/{name}": y.detach()}))
    net(torch.ones(2, 3, dtype=torch.bfloat16))
    save_file(values, tmp_path / "x", SCHEMA)
    trace = Trace.read(tmp_path / "x")
    assert trace.value["1"].dtype == np.float32
    assert np.array_equal(trace.value["1"], values["value/1"].float().numpy())


def test_the_file_is_what_the_page_says(tmp_path):
    trace = everything()
    trace.save(tmp_path / "x")
    with safe_open(tmp_path / "x", "np") as file:
        assert file.metadata()["schema"] == schema.NAME
        text = json.loads(file.metadata()["trace"])
        assert set(text) == set(schema.CONTENT)
        assert np.array_equal(
            file.get_tensor("part/lm_head/wte.weight"), trace.parts["wte.weight"]["lm_head"]
        )
        assert file.get_tensor("difference").shape == (len(trace.differences), 3)


# Refused.

WRONG = {
    "no schema": ({"value/x": np.ones(2)}, {}, "its schema is missing, expected 'numgpt.trace/1'"),
    "another schema": (
        {"value/x": np.ones(2)},
        {"schema": "numgpt.trace/9"},
        "is 'numgpt.trace/9', expected",
    ),
    "no JSON": ({}, SCHEMA | {"trace": "{"}, "is not JSON"),
    "no object": ({}, SCHEMA | {"trace": "[]"}, "trace is [], not an object"),
    "a group": ({"valeu/x": np.ones(2)}, SCHEMA, "'valeu/x' (did you mean value?)"),
    "no name": ({"value": np.ones(2)}, SCHEMA, "it has an array 'value'"),
    "a part of nothing": ({"part/x": np.ones(2)}, SCHEMA, "it has an array 'part/x'"),
    "a side": ({"reference/vale/x": np.ones(2)}, SCHEMA, "not of value or gradient"),
    "integers": ({"value/x": np.ones(2, int)}, SCHEMA, "value/x has dtype I64, not floats"),
    "floats": ({"ids/tokens": np.ones(2)}, SCHEMA, "ids/tokens has dtype F64, not integers"),
    "shapes": ({"value/x": np.ones(2), "gradient/x": np.ones(3)}, SCHEMA, "gradient of x has shape (3,)"),
    "differences": ({"difference": np.ones((1, 3))}, SCHEMA, "difference has shape (1, 3)"),
}
WRONG_CONTENT = {
    "a key": ({"stepz": {}}, "'stepz' (did you mean steps?)"),
    "a key of a step": ({"steps": {"x": {"read": []}}}, "trace.steps.x has a key 'read' (did you mean reads"),
    "a list": ({"values": "x"}, "trace.values is 'x', not a list"),
    "a text": ({"values": ["x", 3]}, "trace.values[1] is 3, not a text"),
    "a name": ({"values": ["y"]}, "its values are not those of the arrays: x, y"),
    "a name twice": ({"values": ["x", "x"]}, "its values are not those of the arrays: a name twice"),
    "an integer": ({"sizes": {"B": True}}, "trace.sizes.B is True, not an integer"),
    "axes": ({"axes": {"x": ["T", "C"]}}, "x has axes (T, C), expected some that give its shape (2,)"),
    "a size": ({"axes": {"x": ["T"]}, "sizes": {"T": 3}}, "x has axes (T), expected"),
    "an id": ({"texts": {"-1": "a"}}, "trace.texts has '-1', not an id"),
    "a cost": ({"steps": {"x": {"cost": [1]}}}, "cost has 1 numbers, not flops"),
    "an index": ({"differences": [{"name": "x"}]}, "difference has shape (0, 3)"),
}  # fmt: skip


@pytest.mark.parametrize(("arrays", "metadata", "message"), WRONG.values(), ids=list(WRONG))
def test_a_file_that_does_not_follow_the_schema_is_one_line(arrays, metadata, message, tmp_path):
    path = written(tmp_path / "x", arrays, metadata)
    with pytest.raises(InputError) as caught:
        Trace.read(path)
    assert message in str(caught.value) and str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize(("content", "message"), WRONG_CONTENT.values(), ids=list(WRONG_CONTENT))
def test_json_that_does_not_follow_the_schema_is_one_line(content, message, tmp_path):
    path = written(tmp_path / "x", {"value/x": np.ones(2)}, **content)
    with pytest.raises(InputError) as caught:
        Trace.read(path)
    assert message in str(caught.value) and str(caught.value).startswith(f"{path}: ")


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """The arrays and the JSON of a whole trace, and a place for others."""
    path = tmp_path_factory.mktemp("traces") / "x"
    everything().save(path)
    with safe_open(path, "np") as file:
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 it is no mapping
        return path, arrays, file.metadata()["trace"]


def test_damaged_json_is_read_as_promised_or_refused_in_one_line(parts):
    path, arrays, text = parts
    outcomes = []

    @settings(max_examples=200, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(damaged=damaged_json(text))
    def law(damaged):
        safetensors.numpy.save_file(arrays, path, SCHEMA | {"trace": damaged.decode()})
        try:
            trace = Trace.read(path)
        except InputError as error:
            outcomes.append("refused")
            assert str(error).isprintable() and "expected" in str(error)
            return
        outcomes.append("read")
        repr(trace.table())
        trace.save(path)
        assert content(Trace.read(path)) == content(trace)

    law()
    assert {*outcomes} == {"read", "refused"}


def test_a_table_shows_a_signalling_nan_without_a_warning():
    trace = model_of({}).astype("float32").record(TOKENS, TARGETS).trace(["h.0.ln_1"])
    trace.value["h.0.ln_1"].reshape(-1)[:1] = np.array([0x7FA00000], np.uint32).view(np.float32)
    assert "nan" in str(trace.table())
