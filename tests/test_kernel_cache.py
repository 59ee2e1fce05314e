"""Kernels are compiled once, kept in one folder, never stale, and run where nothing can be kept."""

import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("numba", reason="Numba is not installed")

from numgpt.engine import jit, kernel_cache

SOURCE = kernel_cache.ROOT
NOWHERE = "/dev/null/no folder"  # not even root can make it


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of kernels for this test alone."""
    monkeypatch.setattr(kernel_cache, "FOLDER", str(tmp_path / "kernels"))
    monkeypatch.setattr(kernel_cache, "_notice", kernel_cache.Notice())
    return tmp_path / "kernels"


def add_one(task, counts):
    counts[task] += 1


def run_new(dtype=np.int32):
    """Launch the kernel as a new process would; returns how often its code was found."""
    kernel = jit.parallel(add_one)
    counts = np.zeros(3, dtype)
    jit.launch(kernel, 3, counts)
    assert counts.tolist() == [1, 1, 1]
    return sum(kernel.stats.cache_hits.values())


def kept(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_a_kernel_is_compiled_once(folder):
    assert [run_new(), run_new()] == [0, 1]
    assert {path.suffix for path in kept(folder)} == {".nbi", ".nbc"}


def test_no_signatures_code_lies_where_anothers_is_looked_for(folder):
    """Two processes that write at once do not know of each other: as if the first had left no index."""
    run_new(np.int32)
    (code,) = folder.rglob("*.nbc")
    (index,) = folder.rglob("*.nbi")
    index.unlink()
    before = code.read_bytes()
    run_new(np.float64)
    assert code.read_bytes() == before and len([*folder.rglob("*.nbc")]) == 2
    assert [run_new(np.float64), run_new(np.int32), run_new(np.int32)] == [1, 0, 1]


@pytest.mark.parametrize("suffix", [".nbi", ".nbc"])
@pytest.mark.parametrize("damage", [lambda b: b"", lambda b: b[: len(b) // 2]])
def test_a_damaged_file_is_compiled_anew(folder, suffix, damage):
    run_new()
    (path,) = (path for path in kept(folder) if path.suffix == suffix)
    path.write_bytes(damage(path.read_bytes()))
    assert [run_new(), run_new()] == [0, 1]


def test_what_cannot_be_written_costs_a_line_and_time(folder, monkeypatch, capsys):
    monkeypatch.setattr(kernel_cache, "FOLDER", NOWHERE)
    assert [run_new(), run_new()] == [0, 0]
    line = capsys.readouterr().err
    assert line.count("\n") == 1 and NOWHERE in line and "NUMBA_CACHE_DIR" in line


@pytest.mark.parametrize("locators", ["InTreeCacheLocator", "Nonsense"])
def test_numbas_own_choice_of_places_does_not_count(folder, monkeypatch, locators):
    """Of which the last is beside the sources, where an edit of what a kernel calls does not show."""
    monkeypatch.setattr(jit.numba_config, "CACHE_LOCATOR_CLASSES", locators, raising=False)
    assert [run_new(), run_new()] == [0, 1] and kept(folder)


def test_without_a_folder_kernels_run_too(folder, monkeypatch, capsys):
    monkeypatch.setattr(kernel_cache, "FOLDER", None)
    monkeypatch.setattr(kernel_cache, "PATIENCE", 0)
    assert [run_new(), run_new()] == [0, 0]
    assert "there is no folder for them" in capsys.readouterr().err


def test_a_full_disk_costs_a_line(folder, monkeypatch, capsys):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(kernel_cache.KernelCache, "_save_overload", full)
    assert [run_new(), run_new()] == [0, 0]
    line = capsys.readouterr().err
    assert line.count("\n") == 1 and "No space left on device" in line


def test_kernels_that_cannot_be_written_are_read(folder, monkeypatch):
    """As in an image of a container that was filled before."""
    run_new()

    def read_only(*_):
        raise PermissionError(30, "Read-only file system")

    monkeypatch.setattr(kernel_cache.Place, "ensure_cache_path", read_only)
    assert run_new() == 1


def test_whoever_waits_is_told_once_wherever_stderr_goes(folder, monkeypatch, capsys):
    monkeypatch.setattr(kernel_cache, "PATIENCE", 0)
    run_new()
    shutil.rmtree(folder)
    run_new()
    assert capsys.readouterr().err == "numgpt: compiling kernels; this happens once and takes some seconds\n"
    run_new()
    assert capsys.readouterr().err == ""


def test_after_an_edit_this_process_leaves_the_cache_alone(folder, tmp_path, monkeypatch):
    """What it imports from now on is not what the folder's name says."""
    source = tmp_path / "source.py"
    source.write_text("a = 1\n")
    run_new()
    edits = kernel_cache.Edits()
    edits.files = [source]
    edits.at_start = edits._stamps()
    monkeypatch.setattr(kernel_cache, "_edits", edits)
    assert run_new() == 1
    source.write_text("a = 12\n")
    assert run_new() == 0
    source.unlink()
    assert run_new() == 0


def copy_of_the_package(tmp_path):
    copy = tmp_path / "numgpt"
    shutil.copytree(SOURCE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    return copy


def test_a_changed_byte_in_any_kernels_file_means_another_folder(tmp_path, monkeypatch):
    before = kernel_cache.cache_folder()
    copy = copy_of_the_package(tmp_path)
    monkeypatch.setattr(kernel_cache, "ROOT", copy)
    assert kernel_cache.cache_folder() == before
    files = kernel_cache.kernel_files()
    kernels = [
        p
        for p in copy.rglob("*.py")
        if re.search(r"^@(kernel|parallel|intrinsic|numba\.njit)\b", p.read_text("utf-8"), re.M)
    ]
    assert len(kernels) > 10 and set(kernels) <= set(files)  # wherever kernels lie, they are among them
    for path in files:
        whole = path.read_bytes()
        path.write_bytes(whole[:-1] + b" ")
        assert kernel_cache.cache_folder() != before, path
        path.write_bytes(whole)


@pytest.mark.parametrize("name", kernel_cache.SETTINGS)
def test_what_changes_the_compilers_work_means_another_folder(monkeypatch, name):
    before = kernel_cache.cache_folder()
    monkeypatch.setenv(f"NUMBA_{name}", "1")
    assert kernel_cache.cache_folder() != before


def test_the_cache_lies_where_numba_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "mine"))
    assert kernel_cache.cache_folder().startswith(str(tmp_path / "mine"))


def test_who_has_no_home_has_no_folder(monkeypatch):
    monkeypatch.setattr(kernel_cache.Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    for name in ("NUMBA_CACHE_DIR", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    assert kernel_cache.cache_folder() is None


LOSS = """
import numpy as np, numgpt
print(float(numgpt.ops.cross_entropy(np.log([[1.0, 2.0]]), np.array([0]))), numgpt.engine.current())
"""


def in_a_new_process(code, path=SOURCE.parent, **settings):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("NUM")}
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=os.path.dirname(os.devnull),  # else the package in the working folder would be the one
        env=environment | {"PYTHONPATH": str(path)} | settings,
    )


def loss_of(done):
    """What LOSS printed, which numba must have computed."""
    loss, name = done.stdout.split() or pytest.fail(done.stderr)
    assert name == "numba", done.stderr
    return float(loss)


def double_exp(copy):
    """Edit what a kernel calls, in a copy of the package; the loss of LOSS is then ln 6."""
    elementary = copy / "ops" / "elementary_numba.py"
    inner = re.compile(r"(?s)(def exp\(x\):.*?return )", re.M)
    edited, count = inner.subn(r"\g<1>2 * ", elementary.read_text("utf-8"), count=1)
    assert count == 1
    elementary.write_text(edited, "utf-8")


def test_equal_packages_share_their_kernels_wherever_they_lie_and_an_edited_one_does_not(tmp_path):
    cache = tmp_path / "kernels"
    folders = [tmp_path / name for name in ("one", "two", "edited")]
    copies = [copy_of_the_package(folder) for folder in folders]
    double_exp(copies[2])
    losses, files = [], []
    for folder in folders:
        losses.append(loss_of(in_a_new_process(LOSS, folder, NUMBA_CACHE_DIR=str(cache))))
        files.append({path: path.stat().st_mtime_ns for path in kept(cache)})
    assert losses == pytest.approx([np.log(3), np.log(3), np.log(6)])
    assert files[0] == files[1] and len(files[2]) == 2 * len(files[0]) > 0


def test_an_edit_of_what_a_kernel_calls_shows_where_nothing_can_be_kept(tmp_path):
    copy = copy_of_the_package(tmp_path)
    first = in_a_new_process(LOSS, tmp_path, NUMBA_CACHE_DIR=NOWHERE)
    assert loss_of(first) == pytest.approx(np.log(3))
    double_exp(copy)
    second = in_a_new_process(LOSS, tmp_path, NUMBA_CACHE_DIR=NOWHERE)
    assert loss_of(second) == pytest.approx(np.log(6))
    assert not [*copy.rglob("*.nbi")]


@pytest.mark.parametrize(
    "setting, value",
    [
        ("NUMBA_DISABLE_JIT", "1"),
        ("NUMBA_NUM_THREADS", "0"),
        ("NUMBA_NUM_THREADS", "-1"),
        ("NUMBA_THREADING_LAYER", "nonsense"),
    ],
)
def test_a_setting_under_which_no_kernel_runs_leaves_the_reference(setting, value):
    """One line says why; who asks for numba by name is refused by the same words."""
    asked = f"{LOSS}\ntry: numgpt.use('numba')\nexcept numgpt.InputError as error: print(error)"
    done = in_a_new_process(asked, **{setting: value})
    result, refusal = done.stdout.splitlines()
    assert result.endswith("reference") and refusal.startswith(f"engine: {setting} is "), done.stderr
    assert done.stderr.count("\n") == 1 and f"the slower reference engine runs: {setting} is " in done.stderr


def test_a_numba_that_does_not_load_leaves_the_reference(tmp_path):
    """As that of another NumPy."""
    broken = tmp_path / "numba"
    broken.mkdir()
    (broken / "__init__.py").write_text("raise ImportError('Numba needs NumPy 2.0 or less')")
    done = in_a_new_process(LOSS, f"{tmp_path}{os.pathsep}{SOURCE.parent}")
    assert done.stdout.endswith("reference\n"), done.stderr
    assert done.stderr.count("\n") == 1 and "Numba needs NumPy 2.0 or less" in done.stderr
