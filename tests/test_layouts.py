"""Layouts of ranks: what they say, which ranks they bring together, and what is refused."""

import pytest
from threaded_ranks import on_ranks

from numgpt import InputError
from numgpt.__main__ import main
from numgpt.parallel import layout


@pytest.mark.parametrize(
    ("text", "size", "sizes"),
    [
        ("data", 4, {"data": 4}),
        ("data:2", 2, {"data": 2}),
        ("tensor:2,data:2", 4, {"data": 2, "tensor": 2}),
        ("pipeline:2,data", 8, {"data": 4, "pipeline": 2}),
        ("data", 1, {"data": 1}),
    ],
)
def test_what_a_layout_says(text, size, sizes):
    found = layout.parsed(text, size)
    assert dict(found.sizes) == sizes and found.size == size
    assert layout.parsed(str(found), size) == found


@pytest.mark.parametrize(
    ("text", "size", "message"),
    [
        ("tensr:2", 2, "did you mean tensor"),
        ("data:2,data:2", 4, "twice"),
        ("data,tensor", 4, "leaves the numbers of ranks open"),
        ("data:0", 1, "leaves the numbers of ranks open"),
        ("tensor:2", 1, "asks for 2 ranks, and 1 runs, expected as many: start it by mpiexec -n 2 numgpt"),
        ("data:2,tensor:2", 2, "mpiexec -n 4"),
        ("data,tensor:2", 3, "a multiple of 2 ranks, and 3 run"),
        ("tensor:2,sequence:2", 4, "expected one of them"),
        ("", 1, "is no kind"),
    ],
)
def test_what_is_no_layout_is_refused(text, size, message):
    with pytest.raises(InputError, match=message):
        layout.parsed(text, size)


def test_neighbours_are_of_one_tensor_group():
    whole = layout.parsed("data:2,pipeline:2,tensor:2", 8)

    def work(ranks):
        return {kind: whole.group(ranks, kind).gather_texts(str(ranks.rank)) for kind in whole.sizes}

    groups = on_ranks(8, work)
    assert groups[0] == {"data": ["0", "4"], "pipeline": ["0", "2"], "tensor": ["0", "1"]}
    assert groups[7] == {"data": ["3", "7"], "pipeline": ["5", "7"], "tensor": ["6", "7"]}
    for rank, own in enumerate(groups):
        for kind, members in own.items():
            assert members[whole.places(rank)[kind]] == str(rank)


@pytest.mark.parametrize("command", ["train", "tune sft", "eval numgpt:tiny"])
def test_several_processes_that_would_each_do_everything_are_refused(command, monkeypatch, capsys):
    monkeypatch.setenv("PMI_SIZE", "2")
    assert main(command.split()) == 2
    said = capsys.readouterr().err
    name = command.split()[0]
    assert said.startswith(f"numgpt: {name}: mpiexec has started 2 processes, and each would do all of it")
    assert len(said.splitlines()) == 1
    assert main(["info", "gpt-nano"]) == 0  # nothing to share
