"""One strict parser for every JSON that is read from a file: what it takes, any other takes as the same."""

import json
import math
import os
import re
from pathlib import Path

import damage
import pytest
import safetensors

import numgpt
from numgpt import InputError, tokenizers
from numgpt.storage import atomic, files


def deep(levels, kind, leaf):
    begin, end = {"list": ("[", "]"), "object": ('{"a":', "}")}[kind]
    return (
        begin * (levels - 1)
        + {"list": f"[{leaf}]", "object": f'{{"a": {leaf or 1}}}'}[kind]
        + end * (levels - 1)
    )


@pytest.mark.parametrize("leaf", ["", "0", '"a"'])
@pytest.mark.parametrize("kind", ["list", "object"])
def test_json_of_64_levels_is_read_and_of_65_refused(kind, leaf):
    files.parse_json(deep(64, kind, leaf).encode(), "x")
    with pytest.raises(InputError, match="nested more than 64 levels deep"):
        files.parse_json(deep(65, kind, leaf).encode(), "x")


@pytest.mark.parametrize(
    "value",
    [
        *damage.SMALL, *damage.HUGE, *damage.FLOATS, *damage.DEEP, *damage.TEXTS, "null", "true", "01", "+1",
        "1.", ".5", "0x1", "'a'", "[1,]", '{"a":1,}', "nan", "inf", "-NaN", "undefined", "1e308", "1.8e308",
        "-1e309", f"1{'0' * 308}", f"2{'0' * 308}", f"-2{'0' * 308}", '"\\ud83d\\ude00"', '"\\ude00\\ud83d"',
        '"\\ud800x"', '{"\\udfff": 1}', '"\t"', '"\\x41"', "\ufeff1", "1 // one", '{"a":1,"\\u0061":2}', "",
    ],
    ids=lambda value: value[:12],
)  # fmt: skip
def test_the_strict_parser_takes_nothing_that_another_refuses(value):
    """The other is that of the safetensors library, in Rust, which reads on over what it does not know."""
    text = f'{{"a": {{"dtype": "F32", "shape": [2], "data_offsets": [0, 8], "new": {value}}}}}'.encode()
    try:
        content = files.parse_json(text, "x")
    except InputError as error:
        assert str(error).startswith("x: is not JSON (")
        return
    assert content == json.loads(text)
    safetensors.deserialize(damage.file_of(text, bytes(8)))


@pytest.mark.parametrize(
    "text, message",
    [
        ('{"a": NaN}', "NaN is no number"),
        ("[-Infinity]", "-Infinity is no number"),
        ("1e999", "the number 1e999 is beyond the largest float"),
        ("-" + "9" * 400, "the number -999999999…, of 401 characters, is beyond the largest float"),
        (r'{"\ud800": 1}', r"U\+D800 is half of a character"),
        (r'[["a\udfff"]]', r"U\+DFFF is half of a character"),
        ("\ufeff{}", "it begins with a byte order mark"),
        ("[" * 66 + "]" * 66, "nested more than 64 levels deep"),
        ('{"a":' * 900 + "0" + "}" * 900, "nested more than 64|recursion"),
        ("[" * 10**6, "recursion"),
        ("9" * 5000, "is not JSON"),
        ('{"a": {"b": 1, "b": 1}}', "'b' occurs twice"),
        (" " * 2**24 + "0", "has more than 16,777,216 bytes"),
    ],
    ids=range(13),
)
def test_json_that_is_too_deep_too_long_or_ambiguous_is_refused(tmp_path, text, message):
    (tmp_path / "x.json").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        files.read_json(tmp_path / "x.json")
    with pytest.raises(InputError, match="expected"):
        tokenizers.load(tmp_path / "x.json")


def test_one_place_parses_json():
    """Whatever reads a file comes to the strict parser: Python's own is called there alone."""
    root = Path(numgpt.__file__).parent
    use = re.compile(r"\bjson\.(?!dumps?\()\w+|from json import")
    users = [str(p.relative_to(root)) for p in root.rglob("*.py") if use.search(p.read_text("utf-8"))]
    assert users == ["storage/files.py"]


def test_a_run_on_a_file_whose_name_is_not_utf8_is_found_again():
    """Python spells such names with halves of characters, which are in a run's recipe and nowhere else."""
    name = os.fsdecode(b"caf\xe9.txt")
    data = json.dumps({"recipe": {"paths": [name]}}).encode()
    assert files.parse_json(data, "x", halves=True)["recipe"]["paths"] == [name]


def test_what_json_has_no_word_for_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        atomic.write_json(tmp_path / "x.json", {"a": math.nan})
    assert list(tmp_path.iterdir()) == []
