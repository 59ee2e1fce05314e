"""Several writers of one place, and writers that die: what is read is whole, and one of what was written."""

import contextlib
import json
import multiprocessing
import os
import pathlib
import shutil
import signal
import tempfile
import threading
from unittest import mock

import pytest

from numgpt import GPT, Config
from numgpt.__main__ import main
from numgpt.interchange import llmc
from numgpt.storage import atomic, exclusive, folders, temporary
from numgpt.tokenizers import Characters

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system"),
    # JAX warns of every fork once another test has loaded it; no child here runs JAX
    pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning"),
]

TINY = {"vocab_size": 7, "block_size": 5, "n_layer": 1, "n_head": 2, "n_embd": 6}
FORK = multiprocessing.get_context("fork") if hasattr(os, "fork") else None


def a_model(number):
    """Whatever is read of it says its number: config, seed, parameters and tokenizer."""
    config = Config(**TINY | {"block_size": 5 + number})
    model = GPT(config, seed=number, tokenizer=Characters("abcdef" + "gh"[number % 2]))
    model.params.flat[:] = number
    return model


def number_of(model):
    """The number of the model that was saved; an error where parts of two are together."""
    numbers = {model.seed, model.config.block_size - 5, *model.params.flat.tolist()}
    (number,) = numbers
    assert model.tokenizer.characters == "abcdef" + "gh"[int(number) % 2]
    return number


def save(folder, number, layout="numgpt"):
    a_model(number).save(folder, layout)


def save_often(folder, number, times, layout, within, faults):
    """What a process or a thread does; within: the folder to work in, None for the one it is in."""
    try:
        if within is not None:
            os.chdir(within)
        model = a_model(number)
        for _ in range(times):
            model.save(folder, layout)
    except BaseException as error:
        faults.append(repr(error))
        raise


def expect_whole(read, writers):
    """Start writers, and read as long as one of them works."""
    for writer in writers:
        writer.start()
    reads = 0
    while any(writer.is_alive() for writer in writers):
        read()
        reads += 1
    for writer in writers:
        writer.join()
        assert getattr(writer, "exitcode", 0) == 0
    assert reads


WORKERS = {"processes": FORK.Process if FORK else None, "threads": threading.Thread}


@pytest.mark.parametrize("times", [10, pytest.param(500, marks=pytest.mark.slow)])
@pytest.mark.parametrize("layout", ["numgpt", "hf"])
@pytest.mark.parametrize("worker", ["processes", "threads", "processes, one of them in the folder"])
def test_of_two_who_save_to_one_folder_each_load_finds_one_whole(tmp_path, layout, worker, times):
    place, faults = tmp_path / "model", []
    save(place, 1, layout)
    within = [place, None] if "folder" in worker else [None, None]
    make = WORKERS[worker.split(",")[0]]
    work = [
        make(target=save_often, args=(place, number, times, layout, within[number - 1], faults))
        for number in (1, 2)
    ]

    def read():
        if layout == "numgpt":
            assert number_of(GPT.load(place)) in (1, 2)
        else:  # which has no seed
            model = GPT.load(place)
            assert {model.config.block_size - 5} == set(model.params.flat.tolist())

    expect_whole(read, work)
    assert not faults
    assert os.listdir(tmp_path) == ["model"]
    assert not [name for name in os.listdir(place) if temporary.HIDDEN.fullmatch(name)]


@pytest.mark.parametrize("worker", WORKERS.values(), ids=list(WORKERS))
def test_two_who_save_to_a_new_folder_leave_one_whole(tmp_path, worker):
    for n in range(5):
        place, faults = tmp_path / str(n), []
        work = [
            worker(target=save_often, args=(place, number, 1, "numgpt", None, faults)) for number in (1, 2)
        ]
        for writer in work:
            writer.start()
        for writer in work:
            writer.join()
            assert getattr(writer, "exitcode", 0) == 0
        assert not faults and number_of(GPT.load(place)) in (1, 2)
    assert len(os.listdir(tmp_path)) == 5


def write_often(path, byte, times, faults):
    try:
        for _ in range(times):
            atomic.write_file(path, byte * 100_000)
    except BaseException as error:
        faults.append(repr(error))
        raise


@pytest.mark.parametrize("times", [20, pytest.param(2000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("worker", WORKERS.values(), ids=list(WORKERS))
def test_of_several_who_write_one_file_each_read_finds_one_whole(tmp_path, worker, times):
    path, faults = tmp_path / "file", []
    atomic.write_file(path, b"a" * 100_000)

    def read():
        data = path.read_bytes()
        assert len(data) == 100_000 and len(set(data)) == 1

    expect_whole(
        read, [worker(target=write_often, args=(path, byte, times, faults)) for byte in (b"a", b"b", b"c")]
    )
    assert not faults and os.listdir(tmp_path) == ["file"]


def test_a_file_is_written_into_a_folder_that_others_swap(tmp_path):
    place, faults = tmp_path / "model", []
    save(place, 1)
    text = json.dumps(a_model(1).tokenizer.state()).encode()

    def write():
        for _ in range(15):
            atomic.write_file(place / "tokenizer.json", text)

    saver = threading.Thread(target=save_often, args=(place, 1, 15, "numgpt", None, faults))
    saver.start()
    write()
    saver.join()
    assert not faults and number_of(GPT.load(place)) == 1
    assert os.listdir(tmp_path) == ["model"]


# Calls that change what is on the disk: before each of them, and after the last, a writer may be killed.
CALLS = ("rename", "replace", "link", "mkdir", "open", "close", "unlink", "rmdir", "ftruncate", "fsync")


def killed_at(n, work):
    """Whether a process that does this work is still alive at the n-th of its calls, where it is killed."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    status, count = 1, 0
    try:
        with contextlib.ExitStack() as stack:

            def counted(call):
                def calls(*args, **options):
                    nonlocal count
                    if count == n:
                        os.kill(os.getpid(), signal.SIGKILL)
                    count += 1
                    return call(*args, **options)

                return calls

            for name in CALLS:
                stack.enter_context(mock.patch.object(os, name, counted(getattr(os, name))))
            work()
        status = 0
    finally:
        os._exit(status)


@contextlib.contextmanager
def as_it_is(place):
    yield


@contextlib.contextmanager
def in_the_folder(place):
    with contextlib.chdir(place):
        yield


@contextlib.contextmanager
def as_a_mount_point(place):
    """Nothing is renamed at the place itself, nor across it."""

    def ismount(path, ask=os.path.ismount):
        return pathlib.Path(path) == place or ask(path)

    with mock.patch("os.path.ismount", ismount), refusing_renames(place):
        yield


@contextlib.contextmanager
def as_a_part_of_the_disk_mounted_again(place):
    """A bind mount, which looks like any folder until it is to be renamed."""
    with refusing_renames(place):
        yield


@contextlib.contextmanager
def without_links(place):
    """As on a stick with FAT, mounted."""
    with as_a_mount_point(place), mock.patch("os.link", mock.Mock(side_effect=OSError(1, "no links here"))):
        yield


@contextlib.contextmanager
def refusing_renames(place):
    def refusing(call):
        def calls(source, target, *args, **options):
            source, target = pathlib.Path(source), pathlib.Path(target)
            if source == place or target == place:
                raise OSError(16, "Device or resource busy")
            if (place in source.parents) != (place in target.parents):
                raise OSError(18, "Invalid cross-device link")
            return call(source, target, *args, **options)

        return calls

    with contextlib.ExitStack() as stack:
        for name in ("rename", "replace", "link"):
            stack.enter_context(mock.patch.object(os, name, refusing(getattr(os, name))))
        yield


SETTINGS = [as_it_is, in_the_folder, as_a_mount_point, as_a_part_of_the_disk_mounted_again, without_links]


@pytest.mark.parametrize("step", [17, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("setting", SETTINGS)
def test_a_save_killed_at_any_of_its_calls_leaves_one_state_whole(tmp_path, setting, step):
    place = tmp_path / "model"
    for n in range(0, 10_000, step):
        save(place, 1)
        with setting(place):
            alive = killed_at(n, lambda: save(place, 2))
            state = number_of(GPT.load(place))
            assert alive or state == 2
            left = killed_at(n // 2, lambda: save(place, 3)) and number_of(GPT.load(place))
            assert left in (state, 3)
            save(place, 4)
        assert number_of(GPT.load(place)) == 4
        assert os.listdir(tmp_path) == ["model"], os.listdir(tmp_path)
        assert set(os.listdir(place)) == {"config.json", "model.safetensors", "tokenizer.json"}
        if not alive:
            return
    raise AssertionError


# Commands that write a model.
WRITING = {
    "quantize": ["quantize", "--bits=4", "--group=2"],
    "prune": ["prune", "--sparsity=0.5"],
    "convert to hf": ["convert", "--to=hf"],
    "convert to gguf": ["convert", "--to=gguf"],
    "convert to llama2.c": ["convert", "--to=llama2.c"],
}


@pytest.mark.parametrize("step", [11, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("way", WRITING)
def test_a_command_killed_at_any_of_its_calls_leaves_what_was_there_or_what_it_writes(
    tmp_path, monkeypatch, way, step
):
    """Nor does it leave anything that the next one does not clear away, beside its place or elsewhere."""
    if "gguf" in way:
        pytest.importorskip("gguf", reason="gguf is not installed: numgpt[gguf]")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(elsewhere))
    like_llama = {"norm": "rmsnorm", "activation": "swiglu", "positions": "rotary", "bias": False}
    place, states = tmp_path / "written", []
    command, *flags = WRITING[way]

    def write(number):
        source = str(tmp_path / f"source-{number}")
        assert main([command, source, str(place), *flags, "--engine=reference"]) == 0

    for number in (1, 2):
        a = GPT(Config(**TINY | {"n_head": 1, "n_inner": 8} | like_llama), seed=number)
        a.save(tmp_path / f"source-{number}")
        write(number)
        states.append(state_of(place))
    assert states[0] != states[1]
    for n in range(0, 10_000, step):
        write(1)
        alive = killed_at(n, lambda: write(2))
        assert state_of(place) in (states if alive else states[1:])
        write(1)
        assert state_of(place) == states[0] and not os.listdir(elsewhere)
        assert set(os.listdir(tmp_path)) == {"elsewhere", "source-1", "source-2", "written"}
        if not alive:
            return
    raise AssertionError


def state_of(place):
    """What a reader finds: a killed writer may have left it under another name, where readers look for it."""
    return {name: array.tobytes() for name, array in GPT.load(place).params.items()}


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_save_that_fails_leaves_nothing_and_the_old_state(tmp_path, setting):
    """Each call fails once, as on a full disk."""
    place = tmp_path / "model"
    save(place, 1)
    identity = os.stat(place).st_ino
    with setting(place):
        for n in range(0, 40, 7):
            calls = iter(range(10_000))

            def failing(call, n=n, calls=calls):
                def fails(*args, **options):
                    if next(calls) == n:
                        raise OSError(28, "No space left on device")
                    return call(*args, **options)

                return fails

            with contextlib.ExitStack() as stack:
                for name in ("mkdir", "fsync", "rename", "replace"):
                    stack.enter_context(mock.patch.object(os, name, failing(getattr(os, name))))
                with contextlib.suppress(OSError):
                    save(place, 2)
            assert number_of(GPT.load(place)) in (1, 2)
            assert os.listdir(tmp_path) == ["model"]
        save(place, 2)
    assert set(os.listdir(place)) == {"config.json", "model.safetensors", "tokenizer.json"}
    assert setting is as_it_is or os.stat(place).st_ino == identity


LITTER = [".model.numgpt-new", ".tokenizer.json.numgpt-new", ".tokenizer.json.0a1b2c3d.numgpt-new"]


@pytest.mark.parametrize("layout", ["numgpt", "hf"])
@pytest.mark.parametrize("setting", [as_it_is, in_the_folder])
def test_what_a_dead_writer_left_hinders_no_save_and_is_cleared_away(tmp_path, layout, setting):
    place = tmp_path / "model"
    save(place, 1, layout)
    for name in LITTER:
        (place / name).write_text("half")
        (tmp_path / name.replace("tokenizer.json", "model")).write_text("half")
    with setting(place):
        save(place, 2, layout)
    assert os.listdir(tmp_path) == ["model"]
    assert not set(LITTER) & set(os.listdir(place))
    (tmp_path / LITTER[2]).mkdir()
    atomic.write_file(tmp_path / "tokenizer.json", b"{}")
    assert not (tmp_path / LITTER[2]).exists()


@pytest.mark.parametrize("folder", [True, False])
def test_what_a_live_writer_holds_is_never_cleared_away(tmp_path, folder):
    with temporary.made(tmp_path / "model", folder) as new:
        for _ in range(3):
            temporary.sweep(tmp_path)
            temporary.sweep(tmp_path, "model")
        assert new.exists()
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("setting", SETTINGS[1:])
def test_convert_to_the_folder_one_stands_in_fills_it(tmp_path, setting, capfd):
    save(tmp_path / "source", 3)
    place = tmp_path / "here"
    place.mkdir()
    before = os.stat(place).st_ino
    with setting(place), contextlib.chdir(place):
        for layout in ("hf", "numgpt"):
            assert main(["convert", "../source", ".", "--to", layout]) == 0, capfd.readouterr().err
            assert os.getcwd() == str(place) and "config.json" in os.listdir(".")
            for path in place.iterdir():
                path.unlink()
        llmc.save_all(".", GPT(Config(**TINY)), 1, 4)
        assert sorted(os.listdir(".")) == sorted(llmc.FILES[:3])
    assert os.stat(place).st_ino == before
    assert sorted(os.listdir(tmp_path)) == ["here", "source"]


def test_where_there_are_no_locks_a_save_is_whole_and_what_is_old_is_cleared_away(tmp_path):
    """As on Windows, and on some network disks."""
    refusing = mock.Mock(side_effect=OSError(95, "Operation not supported"))
    for patch in (
        mock.patch.object(exclusive, "HAS_LOCKS", False),
        mock.patch.object(exclusive.fcntl, "flock", refusing),
    ):
        place = tmp_path / "model"
        young, old = tmp_path / ".model.01234567.numgpt-new", tmp_path / ".model.numgpt-new"
        with patch:
            for path in (young, old):
                path.mkdir()
                (path / "config.json").write_text("half")
            os.utime(old, (0, 0))
            for number in (1, 2):
                save(place, number)
                assert number_of(GPT.load(place)) == number
        assert {p.name for p in tmp_path.iterdir()} == {"model", young.name}
        shutil.rmtree(young)
        shutil.rmtree(place)


def test_a_link_is_read_while_what_it_points_to_is_swapped(tmp_path):
    save(tmp_path / "model", 1)
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "elsewhere" / "link"
    link.symlink_to(tmp_path / "model")
    os.rename(tmp_path / "model", atomic.beside(link, atomic.OLD))  # between the two renames of a save
    assert number_of(GPT.load(link)) == 1
    folders.settle(link)
    assert os.listdir(tmp_path / "model") and link.is_symlink()
    path = tmp_path / "elsewhere" / "file"
    path.symlink_to(tmp_path / "text")
    atomic.write_file(path, b"1")
    atomic.write_file(path, b"2")
    assert path.is_symlink() and (tmp_path / "text").read_bytes() == b"2"
