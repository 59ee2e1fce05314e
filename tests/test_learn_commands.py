"""numgpt learn: a lesson from start to right, and what is no exercise."""

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from numgpt.__main__ import main
from numgpt.learn import running, starting
from numgpt.learn.exercises import NAMES
from numgpt.learn.variation import exercise


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def started(name="softmax", body="    raise NotImplementedError"):
    """The path of a started exercise with a body in it."""
    if not Path(f"work/{name}.py").exists():
        assert main(["learn", "start", name]) == 0
    path = Path(f"work/{name}.py")
    text = path.read_text("utf-8")
    path.write_text(text[: text.rindex("    raise NotImplementedError")] + body + "\n", "utf-8")
    return str(path)


def test_a_lesson_from_start_to_right(capsys):
    path = started()
    assert main(["learn", "check", path]) == 1
    assert "softmax_backward    not written yet" in capsys.readouterr().out
    wrong = started(body="    return p * dy")
    assert main(["learn", "check", wrong]) == 1
    out = capsys.readouterr().out
    assert "Your dx has 1 of its 2 terms." in out
    assert out.endswith("Next: numgpt learn hint work/softmax.py\n")
    for level in (1, 2, 3, 3):
        assert main(["learn", "hint", "softmax"]) == 0
        assert capsys.readouterr().out.startswith(f"level {level} of 3")
    text = Path(path).read_text("utf-8").replace("p * dy\n", "p * (dy - (p * dy).sum(-1, keepdims=True))\n")
    Path(path).write_text(text, "utf-8")
    assert main(["learn", "check", "softmax"]) == 0
    assert "dx ok" in capsys.readouterr().out
    assert main(["learn", "progress"]) == 0
    assert "softmax: right, 3 checks" in capsys.readouterr().out
    assert main(["learn", "list"]) == 0
    assert "[right, 3 checks" in capsys.readouterr().out


def test_the_solution_is_shown_when_it_is_asked_for_and_that_is_noted(capsys):
    path = started()
    assert ".sum(AXIS" not in Path(path).read_text("utf-8").rpartition('"""')[2]
    capsys.readouterr()
    assert main(["learn", "solution", "softmax"]) == 0
    assert ".sum(AXIS" in capsys.readouterr().out.rpartition('"""')[2]
    assert json.loads(Path("work/progress.json").read_text())["softmax"]["solution"] is True


@pytest.mark.parametrize("student", ["Zoë", 'Ann "Ace" O\'Hara', "back\\slash", "{name}"])
def test_a_student_may_have_any_name_of_printable_characters(student):
    assert main(["learn", "start", "softmax", "--student", student]) == 0
    names = {}
    exec(Path("work/softmax.py").read_text("utf-8"), names)
    assert names["STUDENT"] == student
    assert main(["learn", "check", "work/softmax.py"]) == 1  # not written yet


@pytest.mark.parametrize("student", ["two\nlines", "\udc80", "\x00"])
def test_a_name_that_is_no_line_of_a_file_is_refused(student, capsys):
    assert main(["learn", "start", "softmax", "--student", student]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not Path("work/softmax.py").exists()


def test_what_the_solution_prints_is_right(capsys):
    main(["learn", "start", "layernorm", "--student", "ada"])
    capsys.readouterr()
    assert main(["learn", "solution", "layernorm"]) == 0
    Path("work/layernorm.py").write_text(capsys.readouterr().out, "utf-8")
    assert main(["learn", "check", "layernorm", "--json", "report.json"]) == 0
    (report,) = json.loads(Path("report.json").read_text())
    assert report["right"] and report["codes"] == []


def test_a_teachers_key_has_all_solutions(capsys):
    assert main(["learn", "key"]) == 0
    out = capsys.readouterr().out
    assert all(f'EXERCISE = "{name}"' in out for name in NAMES)
    assert "NotImplementedError" not in out


def test_files_that_are_there_are_not_written_over(capsys):
    path = started(body="    return my_work")
    assert main(["learn", "start", "softmax"]) == 2
    assert "is there already" in capsys.readouterr().err
    assert "my_work" in Path(path).read_text("utf-8")
    assert main(["learn", "start", "all", "--dir", "other"]) == 0
    assert sorted(p.stem for p in Path("other").glob("*.py")) == sorted(NAMES)


BAD = {
    "a syntax error": (
        "    return p * (dy",
        "line ",
        "'(' was never closed, at the caret in: return p * ^(dy",
    ),
    "an endless loop": (
        "    while True:\n        pass",
        "is not done after 2 seconds",
        "a loop that does not end",
    ),
    "megabytes of print": (
        "    while True:\n        print('x' * 9999)",
        "printed more than 1,000,000 bytes",
        "",
    ),
    "an end of the process": ("    import os\n    os._exit(3)", "its process ended with status 3", ""),
    "an error at import": (
        "    return p\n\n\nnothing()",
        "NameError: name 'nothing' is not defined",
        "nothing()",
    ),
    "an exit at import": (
        "    return p\n\n\nraise SystemExit(4)",
        "SystemExit: 4",
        "expected code that runs",
    ),
    "another function": (
        "    return p\n\n\ndel softmax_backward",
        "there is no function softmax_backward",
        "there are softmax_forward",
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_code_that_cannot_be_judged_is_one_line_and_status_2(what, capsys):
    body, *says = BAD[what]
    path = started(body=body)
    capsys.readouterr()
    limit = "2" if what == "an endless loop" else "60"
    assert main(["learn", "check", path, "--limit", limit]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1
    assert captured.err.startswith(f"numgpt: {path}: ")
    assert all(part in captured.err for part in says), captured.err


def test_what_is_no_exercise_is_refused(capsys):
    Path("mine.py").write_text("x = 1\n")
    Path("odd.py").write_text("EXERCISE = 'flying'\n")
    Path("empty").mkdir()
    for words, says in {
        "check mine.py": "has no line EXERCISE = …",
        "check odd.py": "EXERCISE is 'flying'",
        "check empty": "is a folder",
        "check nowhere.py": "does not exist",
        "check softmaks": "does not exist",
        "start softmaks": "did you mean softmax?",
        "hint softmaks": "did you mean softmax?",
        "progress --dir empty": "has no progress.json",
    }.items():
        assert main(["learn", *words.split()]) == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1 and says in err, err


def test_a_damaged_file_of_progress_is_refused(capsys):
    Path("work").mkdir()
    for text in ("{", "[]", '{"softmax": 3}', '{"softmax": {"checks": "many"}}'):
        Path("work/progress.json").write_text(text)
        assert main(["learn", "progress"]) == 2
        assert capsys.readouterr().err.startswith("numgpt: work/progress.json: ")


def test_what_the_code_prints_is_shown_before_the_verdict(capsys):
    path = started(body="    print('dy', dy.shape)\n    return p * dy")
    capsys.readouterr()
    assert main(["learn", "check", path]) == 1
    assert capsys.readouterr().out.startswith("your code printed:\ndy (3, 5, 7)\n")


def test_a_line_that_raises_is_quoted():
    path = started(body="    return p * dy.nothing")
    report = running.checked(path).report
    (finding,) = report["findings"]
    assert "AttributeError in line " in finding["says"]
    assert "return p * dy.nothing" in finding["says"]


def test_a_forward_that_was_changed_is_noted():
    path = started(body="    return p * dy")
    text = Path(path).read_text("utf-8").replace("p = e / e.sum", "p = 2 * e / e.sum")
    Path(path).write_text(text, "utf-8")
    (note,) = running.checked(path).report["notes"]
    assert note.startswith("softmax_forward was changed")


def test_planted_faults_are_counted(capsys):
    assert main(["learn", "faults", "softmax"]) == 0
    assert "100.0 % of 15 faults are named, 0 called right" in capsys.readouterr().out


# Grades.


def class_of_two():
    """Two students' folders: one with a right, a half right and a begun exercise, one with broken files."""
    for words in (
        "layernorm softmax linear --student ada --dir class/ada",
        "softmax gelu_erf --dir class/bob",
    ):
        assert main(["learn", "start", *words.split()]) == 0
    for student in ("ada", "bob"):
        path = Path(f"class/{student}/softmax.py")
        path.write_text(
            path.read_text("utf-8").replace("    raise NotImplementedError", "    return p * dy #"), "utf-8"
        )
    right = starting.page(exercise("layernorm", "ada"), stub=False)
    Path("class/ada/layernorm.py").write_text(right, "utf-8")
    Path("class/ada/notes.py").write_text("mine = 1\n")
    Path("class/bob/gelu_erf.py").write_text("def broken(:\n")


def test_a_folder_is_graded_with_several_scores_an_exercise_and_none_stops_the_rest(capsys):
    class_of_two()
    capsys.readouterr()
    outputs = ["--json", "grades.json", "--junit", "grades.xml", "--gradescope", "results.json"]
    assert main(["learn", "grade", "class", "--expect", "layernorm", "cross_entropy", *outputs]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "ada/layernorm.py: 4 of 4 (runs 1 dx 1 dgamma 1 dbeta 1)".replace(
        "dgamma 1 dbeta 1", " ".join(f"{name} 1" for name in list(exercise("layernorm", "ada").gradients)[1:])
    )
    assert lines[1].startswith("ada/linear.py: 0 of 4") and lines[1].endswith("NOT_WRITTEN")
    assert lines[2] == "ada/softmax.py: 1 of 2 (runs 1 dx 0)  SM_SUM_TERM_MISSING"
    assert "bob/gelu_erf.py: line 1: " in lines[3]
    assert lines[5] == (
        "cross_entropy.py: 0 of 2 (runs 0 dlogits 0)  cross_entropy.py: is not there, expected it in class"
    )
    assert lines[6] == "6 of 16 points"

    grades = json.loads(Path("grades.json").read_text())
    assert (grades["score"], grades["max_score"], len(grades["files"])) == (6.0, 16.0, 6)
    tests = json.loads(Path("results.json").read_text())["tests"]
    assert sum(t["score"] for t in tests) == 6
    by_name = {t["name"]: t for t in tests}
    wrong = by_name["bob/softmax.py: dx"]
    assert wrong["status"] == "failed" and wrong["tags"] == ["SM_SUM_TERM_MISSING"]
    root = ElementTree.parse("grades.xml").getroot()
    assert len(root.findall("testsuite")) == 6
    assert len(root.findall(".//failure")) == 10
    assert root.find(".//testsuite[@name='ada/softmax.py']/testcase[@name='dx']/failure") is not None


def test_what_cannot_be_graded_is_one_line(capsys):
    Path("empty").mkdir()
    Path("others").mkdir()
    Path("others/mine.py").write_text("x = 1\n")
    for words, says in {
        "nowhere": "is no folder",
        "empty": "has no Python files",
        "others": "has no started exercises",
        "others --expect softmaks": "did you mean softmax?",
    }.items():
        assert main(["learn", "grade", *words.split()]) == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1 and says in err, err
