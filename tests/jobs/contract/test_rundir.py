"""The run directory: files whole or absent, events in order, markers that tell the truth."""

from __future__ import annotations

import json
import os
import resource
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from jobs.contract import done_markers, rundir
from jobs.contract.events import append_event, read_events
from jobs.contract.files import (
    FORMAT,
    FormatError,
    read_json,
    read_lines,
    sha256,
    write_bytes,
    write_json,
)
from jobs.contract.locks import Locked, locked

REPOSITORY = Path(__file__).parents[3]


def start(program: str, *arguments: str | Path, **options: Any) -> subprocess.Popen[str]:
    """Start a Python program that may import `jobs`."""
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.Popen(command, cwd=REPOSITORY, text=True, stdout=subprocess.PIPE, **options)


@pytest.fixture
def run(tmp_path: Path) -> rundir.RunDir:
    return rundir.RunDir(tmp_path)


def test_names_are_as_in_the_layout(run: rundir.RunDir, tmp_path: Path) -> None:
    names = {
        run.record: "run.json",
        run.plan: "plan.json",
        run.events: "events.jsonl",
        run.code: "code",
        run.lock: "lock",
        run.stop_file: "STOP",
        run.save_file: "SAVE",
        run.spec("curate", 7): "stages/curate/spec/00007.json",
        run.done("tokenize", 12345): "stages/tokenize/done/12345.json",
        run.progress("tokenize", 0): "stages/tokenize/progress/00000.json",
        run.attempt("pretrain", 3): "stages/pretrain/attempts/3",
        run.metrics("pretrain"): "stages/pretrain/metrics.jsonl",
        run.metrics("finetune", 2): "stages/finetune/metrics-00002.jsonl",
        run.spikes("finetune", 2): "stages/finetune/spikes-00002",
        run.path("corpus/train"): "corpus/train",
    }

    assert {path.relative_to(tmp_path).as_posix() for path in names} == set(names.values())
    assert run.path("/data/a.jsonl") == Path("/data/a.jsonl")
    assert run.name == tmp_path.name


def test_attempts_are_counted_in_order_of_number(run: rundir.RunDir) -> None:
    assert run.attempts("pretrain") == []

    for name in ("1", "10", "2", "notes"):
        run.attempt("pretrain", 1).with_name(name).mkdir(parents=True)

    assert run.attempts("pretrain") == [1, 2, 10]


def test_what_was_written_is_read_back_with_its_format(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "in" / "value.json"

    write_json(path, {"b": [1, None], "a": "\u00b5g"})

    assert read_json(path) == {"format": FORMAT, "a": "\u00b5g", "b": [1, None]}
    assert [entry.name for entry in path.parent.iterdir()] == ["value.json"]


def test_a_file_is_written_with_the_requested_mode(tmp_path: Path) -> None:
    write_bytes(tmp_path / "secret", b"NAME=value\n", mode=0o600)

    assert (tmp_path / "secret").stat().st_mode & 0o777 == 0o600


NOT_UTF8 = "'utf-8' codec can't decode byte 0xff in position 0: invalid start byte"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"format": 1}', f"format 1, this program reads format {FORMAT}"),
        (b'{"state": "done"}', f"format None, this program reads format {FORMAT}"),
        (b"[1]", f"format None, this program reads format {FORMAT}"),
        (b'{"format": 3', "not JSON (Expecting ',' delimiter: line 1 column 13 (char 12))"),
        (b"", "not JSON (Expecting value: line 1 column 1 (char 0))"),
        (b"\xff", f"not JSON ({NOT_UTF8})"),
        (b"[" * 100_000, "not JSON (its brackets are too deep in one another)"),
    ],
)  # fmt: skip
def test_a_file_of_another_format_is_refused_by_name(
    content: bytes, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "run.json"
    path.write_bytes(content)

    with pytest.raises(FormatError) as refused:
        read_json(path)

    assert str(refused.value) == f"{path}: {message}"


def test_a_missing_file_is_missing_not_malformed(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "run.json")


WRITE_AND_DIE = """
import os, signal, sys
from pathlib import Path
from jobs.contract.files import write_json
def watch(name, arguments):
    if name == "os.rename":
        os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(watch)
write_json(Path(sys.argv[1]), {"value": "new"})
"""


def test_after_a_writer_killed_before_the_rename_the_old_file_remains(tmp_path: Path) -> None:
    path = tmp_path / "value.json"
    write_json(path, {"value": "old"})

    with start(WRITE_AND_DIE, path) as writer:
        assert writer.wait() == -signal.SIGKILL

    assert read_json(path)["value"] == "old"


WRITE_TOO_MUCH = """
import sys
from pathlib import Path
from jobs.contract.files import write_bytes
try:
    write_bytes(Path(sys.argv[1]), b"x" * 100_000)
except OSError as error:
    print(error.strerror)
"""


def test_after_a_refused_write_the_old_file_alone_remains(tmp_path: Path) -> None:
    path = tmp_path / "value"
    path.write_bytes(b"old")
    limit = (50_000, 50_000)

    def allow_little() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)

    with start(WRITE_TOO_MUCH, path, preexec_fn=allow_little) as writer:
        stdout, _ = writer.communicate()

    assert stdout == "File too large\n"
    assert {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()} == {"value": b"old"}


WRITE_OFTEN = """
import sys
from pathlib import Path
from jobs.contract.files import write_json
for number in range(200):
    write_json(Path(sys.argv[1]), {"number": number, "ballast": str(number) * 5000})
"""


def test_a_reader_beside_a_writer_sees_whole_files_only(tmp_path: Path) -> None:
    path = tmp_path / "value.json"
    write_json(path, {"number": 0, "ballast": "0" * 5000})
    seen = [0]

    with start(WRITE_OFTEN, path) as writer:
        while writer.poll() is None:
            value = read_json(path)
            assert value["ballast"] == str(value["number"]) * 5000
            seen.append(value["number"])

    assert seen == sorted(seen)
    assert read_json(path)["number"] == 199


APPEND = """
import sys
from pathlib import Path
from jobs.contract import rundir
from jobs.contract.events import append_event
run = rundir.RunDir(Path(sys.argv[1]))
for number in range(50):
    append_event(run, "step", writer=sys.argv[2], number=number, note="x" * 9000)
"""


def test_events_of_several_processes_are_all_there_and_whole(run: rundir.RunDir) -> None:
    writers = [start(APPEND, run.root, name) for name in "abcd"]
    for writer in writers:
        writer.communicate()

    events = read_events(run)

    assert [writer.returncode for writer in writers] == [0, 0, 0, 0]
    assert run.events.read_bytes().count(b"\n") == len(events) == 200
    for name in "abcd":
        numbers = [event["number"] for event in events if event["writer"] == name]
        assert numbers == list(range(50))
    assert {(event["format"], event["event"]) for event in events} == {(FORMAT, "step")}


def test_a_run_without_events_has_none(run: rundir.RunDir) -> None:
    assert read_events(run) == []


def test_an_event_cut_short_is_skipped_and_does_not_harm_the_next(run: rundir.RunDir) -> None:
    append_event(run, "submit", jobs=["17"])
    whole = run.events.read_bytes()
    run.events.write_bytes(whole + whole[:20])

    assert [event["event"] for event in read_events(run)] == ["submit"]
    append_event(run, "exit", code=0)
    assert [event["event"] for event in read_events(run)] == ["submit", "exit"]


def finish(run: rundir.RunDir, *, with_digest: bool = True) -> None:
    """Write the files and the marker of a task of the spec `digest`."""
    run.path("in.jsonl").write_text("input")
    run.path("out.bin").write_text("output")
    done_markers.write_done(
        run,
        "tokenize",
        3,
        spec_digest="digest",
        inputs=[done_markers.describe_file(run, "in.jsonl", with_digest)],
        outputs=[done_markers.describe_file(run, "out.bin")],
        summary={"documents": 1},
        seconds=1.5,
    )


def touch_later(path: Path, text: str) -> None:
    """Write a file so that its modification time differs for certain."""
    path.write_text(text)
    moment = path.stat().st_mtime_ns + 1_000_000_000
    os.utime(path, ns=(moment, moment))


def test_what_read_a_folder_that_is_gone_does_not_count_any_more(run: rundir.RunDir) -> None:
    for index, step in enumerate((5, 50)):
        files = [f"kept/iter_{step}/meditron.json", f"scores/{step}/results.json"]
        for name in files:
            run.path(name).parent.mkdir(parents=True)
            run.path(name).write_text("{}")
        read, written = (done_markers.describe_file(run, name) for name in files)
        done_markers.write_done(
            run,
            "evaluate",
            index,
            spec_digest="digest",
            inputs=[read],
            outputs=[written],
            summary={},
            seconds=1.0,
        )

    forgotten = done_markers.forget_readers(run, "kept/iter_5")

    assert forgotten == ["evaluate task 0"]
    assert [run.done("evaluate", index).exists() for index in (0, 1)] == [False, True]
    assert list(run.root.glob("scores/*/results.json")) == [run.path("scores/50/results.json")]


def test_a_marker_holds_what_was_given(run: rundir.RunDir) -> None:
    finish(run)

    marker = read_json(run.done("tokenize", 3))
    assert marker.pop("time") > 0
    assert [item.pop("mtime_ns") > 0 for item in (*marker["inputs"], *marker["outputs"])] == [
        True
    ] * 2
    assert marker == {
        "format": FORMAT,
        "stage": "tokenize",
        "index": 3,
        "spec": "digest",
        "inputs": [
            {"path": "in.jsonl", "bytes": 5, "sha256": sha256(run.path("in.jsonl"))}
        ],
        "outputs": [
            {"path": "out.bin", "bytes": 6, "sha256": sha256(run.path("out.bin"))}
        ],
        "summary": {"documents": 1},
        "seconds": 1.5,
    }  # fmt: skip


CHANGES: list[tuple[str, Any, str]] = [
    ("nothing", lambda run: None, "done"),
    ("marker removed", lambda run: run.done("tokenize", 3).unlink(), "missing"),
    ("marker torn", lambda run: run.done("tokenize", 3).write_text('{"format"'), "missing"),
    ("marker older", lambda run: run.done("tokenize", 3).write_text('{"format": 1}'), "missing"),
    ("input removed", lambda run: run.path("in.jsonl").unlink(), "gone"),
    ("input longer", lambda run: run.path("in.jsonl").write_text("inputs"), "inputs"),
    ("input other", lambda run: touch_later(run.path("in.jsonl"), "INPUT"), "inputs"),
    ("input touched", lambda run: touch_later(run.path("in.jsonl"), "input"), "done"),
    ("output removed", lambda run: run.path("out.bin").unlink(), "outputs"),
    ("output shorter", lambda run: run.path("out.bin").write_text("out"), "outputs"),
    ("output touched", lambda run: touch_later(run.path("out.bin"), "output"), "done"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "verdict"),
    [pytest.param(change, verdict, id=name) for name, change, verdict in CHANGES],
)
def test_a_marker_vouches_only_for_what_is_still_there(
    change: Any, verdict: str, run: rundir.RunDir
) -> None:
    finish(run)

    change(run)

    assert done_markers.check_done(run, "tokenize", 3, "digest") == verdict
    assert done_markers.is_done(run, "tokenize", 3, "digest") == (verdict in ("done", "gone"))


def test_a_marker_set_aside_comes_back_unless_there_is_a_newer_one(run: rundir.RunDir) -> None:
    finish(run)
    done_markers.set_done_aside(run, "tokenize", 3)
    assert done_markers.check_done(run, "tokenize", 3, "digest") == "missing"
    assert done_markers.check_done(run, "tokenize", 3, "digest", aside=True) == "done"

    done_markers.restore_done(run, "tokenize", 3)
    assert done_markers.check_done(run, "tokenize", 3, "digest") == "done"

    done_markers.set_done_aside(run, "tokenize", 3)
    finish(run)
    assert [path.name for path in run.done("tokenize", 3).parent.iterdir()] == ["00003.json"]


def test_a_marker_of_another_spec_does_not_vouch(run: rundir.RunDir) -> None:
    finish(run)

    assert done_markers.check_done(run, "tokenize", 3, "another") == "spec"
    assert done_markers.check_done(run, "tokenize", 4, "digest") == "missing"


def test_a_large_input_known_by_time_alone_counts_as_changed_when_touched(
    run: rundir.RunDir,
) -> None:
    finish(run, with_digest=False)
    assert done_markers.is_done(run, "tokenize", 3, "digest")

    touch_later(run.path("in.jsonl"), "input")

    assert not done_markers.is_done(run, "tokenize", 3, "digest")


def test_forgetting_removes_the_marker_and_half_written_ones_of_that_task_only(
    run: rundir.RunDir,
) -> None:
    finish(run)
    (run.done("tokenize", 3).with_name(".00003.json.aside")).write_text("{}")
    kept = [run.done("tokenize", 4), run.done("tokenize", 4).with_name(".00004.json.4f")]
    gone = [run.done("tokenize", 3).with_name(".00003.json.9c")]
    for path in kept + gone:
        path.write_text("{}")

    done_markers.forget_done(run, "tokenize", 3)

    assert sorted(run.done("tokenize", 3).parent.iterdir()) == sorted(kept)


def test_sha256_is_that_of_the_whole_file(tmp_path: Path) -> None:
    import hashlib

    content = bytes(range(256)) * 10_000
    (tmp_path / "file").write_bytes(content)

    assert sha256(tmp_path / "file") == hashlib.sha256(content).hexdigest()


def test_lines_that_are_no_objects_are_skipped(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    values: list[object] = [{"step": 1}, 7, {"step": 2}]
    path.write_text("".join(json.dumps(value) + "\n" for value in values) + '{"step": 3')

    assert list(read_lines(path)) == [{"step": 1}, {"step": 2}]


HOLD = """
import sys, time
from pathlib import Path
from jobs.contract.locks import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_lock_is_one_processs_until_it_dies(run: rundir.RunDir) -> None:
    with start(HOLD, run.lock) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(Locked), locked(run.lock):
            pass
        holder.kill()

    with locked(run.lock):
        assert run.lock.exists()


def test_a_lock_in_a_removed_folder_fails_and_does_not_bring_the_folder_back(
    tmp_path: Path,
) -> None:
    removed = rundir.RunDir(tmp_path / "removed")

    with pytest.raises(FileNotFoundError), locked(removed.lock):
        pass

    assert not removed.root.exists()


def test_a_command_about_a_run_works_in_any_folder_and_is_quoted(tmp_path: Path) -> None:
    run = rundir.RunDir(tmp_path / "my runs; $(id)" / "med-7b-0")

    command = run.command("cancel", "--save")

    runs_dir = str(tmp_path / "my runs; $(id)")
    assert shlex.split(command) == [
        "meditron", "cancel", "--save", "med-7b-0", "--runs-dir", runs_dir,
    ]  # fmt: skip
    assert run.hint("free space, then {meditron resume}") == (
        f"free space, then `{run.command('resume')}`"
    )


def test_a_file_system_that_does_not_answer_requests_no_stop(tmp_path: Path) -> None:
    run = rundir.RunDir(tmp_path / ("long" * 100))  # ENAMETOOLONG stands for EIO and ESTALE
    (tmp_path / "other").mkdir()
    other = rundir.RunDir(tmp_path / "other")
    other.stop_file.touch()

    assert (run.is_stop_requested(), run.is_save_requested()) == (False, False)
    assert (other.is_stop_requested(), other.is_save_requested()) == (True, False)
