"""`meditron checkpoints`: what stands in a run's folder of checkpoints."""

from __future__ import annotations

import json
import os
import shutil
import time

import pytest

from jobs.checkpoints import leases, manifest, retention
from meditron_cli.commands.checkpoints import list_checkpoints, verify_all

from ...conftest import Bench
from ...jobs.checkpoint_files import write_checkpoint
from ...permissions import run_plainly

READER = leases.Holder("evaluate", 3, 1, "77_3", "n01", 5)


@pytest.fixture
def run(meditron: Bench):
    """Return a run with checkpoints of steps 0, 10 and 20."""
    meditron.submit()
    meditron.clock.time = time.time()
    for step in (0, 10, 20):
        write_checkpoint(meditron.run().path("checkpoints"), step)
    return meditron.run()


def listed(meditron, run, *words):
    """Exit code and checkpoints by name."""
    done = meditron("checkpoints", run.name, "--json", *words)
    found = json.loads(done.stdout)["checkpoints"]
    return done.exit_code, {entry["name"]: entry for entry in found}


def test_a_table_newest_first(meditron, run):
    with leases.leased(run.path("checkpoints"), "iter_0000000", READER):
        done = meditron("checkpoints", run.name[:5])

    assert done.exit_code == 0, done.output
    lines = [line.split("  ") for line in done.stdout.splitlines()]
    assert [line[0] for line in lines] == [
        "checkpoint", "iter_0000020", "iter_0000010", "iter_0000000",
    ]  # fmt: skip
    assert "valid" in lines[1]
    assert lines[3][-1].strip() == "evaluate task 3 (job 77_3, attempt 1, on n01)"


def test_the_kind_of_a_checkpoint_and_the_weights_it_began_with_are_shown(meditron, run):
    folder = run.path("checkpoints")
    shutil.rmtree(folder / "iter_0000000")
    write_checkpoint(folder, 0, kind="weights", origin={"weights": "org/base"})

    done = meditron("checkpoints", run.name)

    cells = [line.split() for line in done.stdout.splitlines()]
    assert "training" in cells[1]
    assert {"weights", "org/base"} <= set(cells[3])


def test_kept_weights_are_listed_and_verified_beside_the_checkpoints(meditron, run):
    kept = manifest.kept(run.path("checkpoints"))
    for step in (10, 30):
        write_checkpoint(kept, step, kind="weights")
    (kept / "iter_0000030/__0_0.distcp").write_bytes(b"WEIGHTS")

    code, entries = listed(meditron, run, "--deep")

    assert list(entries) == [
        "kept/iter_0000030", "iter_0000020", "iter_0000010", "kept/iter_0000010", "iter_0000000",
    ]  # fmt: skip
    assert code == 4
    assert [entry["state"] for entry in entries.values()] == ["damaged", *["valid"] * 4]
    assert entries["kept/iter_0000010"]["verified"]


def test_no_checkpoints_is_reported(meditron):
    meditron.submit()

    done = meditron("checkpoints", meditron.run().name)

    assert (done.exit_code, done.stdout) == (0, "")
    assert done.stderr == f"no checkpoints in {meditron.run().path('checkpoints')}\n"


def test_json_has_leases_and_the_writer(meditron, run):
    folder = run.path("checkpoints")
    writer = leases.Holder("pretrain", 0, 2, "12", "n02", 34)

    with leases.leased(folder, "iter_0000010", READER), leases.sole_writer(folder, writer):
        done = meditron("checkpoints", run.name, "--json")

    listed = json.loads(done.stdout)
    assert (listed["format"], listed["run"], listed["writer"]["job"]) == (1, run.name, "12")
    newest, middle, _ = listed["checkpoints"]
    assert newest == {
        "name": "iter_0000020",
        "step": 20,
        "state": "valid",
        "problem": "",
        "bytes": 9,
        "kind": "training",
        "origin": "random",
        "saved": (folder / "iter_0000020/meditron.json").stat().st_mtime,
        "verified": None,
        "leases": [],
    }
    (lease,) = middle["leases"]
    assert (lease["stage"], lease["job"], lease["node"]) == ("evaluate", "77_3", "n01")
    assert lease["expires"] > time.time()


def test_damage_is_reported_with_exit_code_4_and_nothing_is_changed(meditron, run):
    folder = run.path("checkpoints")
    os.truncate(folder / "iter_0000020/__0_0.distcp", 3)
    before = sorted(folder.rglob("*"))

    done = meditron("checkpoints", run.name)

    assert done.exit_code == 4
    assert f"error: {folder}/iter_0000020: __0_0.distcp has 3 bytes instead of 7" in done.stderr
    assert sorted(folder.rglob("*")) == before


def test_what_is_set_aside_or_being_written_is_no_damage(meditron, run):
    folder = run.path("checkpoints")
    (folder / "iter_0000020").rename(folder / "iter_0000020.bad-20260101T000000")
    (folder / "iter_0000030").mkdir()

    code, found = listed(meditron, run)

    assert code == 0
    assert {name: entry["state"] for name, entry in found.items()} == {
        "iter_0000030": "unfinished",
        "iter_0000020.bad-20260101T000000": "quarantined",
        "iter_0000010": "valid",
        "iter_0000000": "valid",
    }


def test_only_deep_finds_a_changed_byte_and_training_keeps_what_passed(meditron, run):
    folder = run.path("checkpoints")
    (folder / "iter_0000020/__0_0.distcp").write_bytes(b"Weights")
    assert listed(meditron, run)[0] == 0

    code, found = listed(meditron, run, "--deep")

    assert code == 4
    assert found["iter_0000020"]["state"] == "damaged"
    assert found["iter_0000020"]["problem"].startswith(
        "__0_0.distcp has the right size, but its content"
    )
    assert found["iter_0000010"]["verified"] == pytest.approx(time.time(), abs=300)
    assert manifest.verified_at(folder / "iter_0000020") is None
    for step in (30, 40):
        write_checkpoint(folder, step)
    retention.prune(folder, 0)
    names = sorted(path.name for path in folder.glob("iter_*"))
    assert names == ["iter_0000000", "iter_0000010", "iter_0000040"]


def test_deep_prints_on_stderr_what_it_reads(meditron, run):
    done = meditron("checkpoints", run.name, "--deep")

    assert done.exit_code == 0
    assert done.stderr.splitlines() == [
        "reading iter_0000020", "reading iter_0000010", "reading iter_0000000",
    ]  # fmt: skip
    assert leases.read_leases(run.path("checkpoints"), time.time()) == []


@pytest.fixture
def read_only(run):
    """Folders of the run's checkpoints to which nobody can write."""
    folders = [run.path("checkpoints"), *run.path("checkpoints").iterdir()]
    for folder in folders:
        folder.chmod(0o555)
    yield run
    for folder in folders:
        folder.chmod(0o755)


def test_deep_verifies_checkpoints_of_somebody_else_and_changes_nothing(meditron, read_only):
    folder = read_only.path("checkpoints")
    before = sorted(folder.rglob("*"))

    done = run_plainly(
        "checkpoints", read_only.name, "--deep", "--json", "--runs-dir", str(meditron.runs)
    )

    assert done.returncode == 0, done.stderr
    assert [entry["state"] for entry in json.loads(done.stdout)["checkpoints"]] == ["valid"] * 3
    assert done.stderr.splitlines()[-1] == (
        f"{folder} cannot be written (Permission denied): the result is not recorded"
    )
    assert sorted(folder.rglob("*")) == before


def test_deep_finds_a_changed_byte_in_a_checkpoint_of_somebody_else(meditron, run, read_only):
    damaged = run.path("checkpoints") / "iter_0000020"
    (damaged / "__0_0.distcp").write_bytes(b"Weights")

    done = run_plainly("checkpoints", run.name, "--deep", "--runs-dir", str(meditron.runs))

    assert done.returncode == 4
    assert f"error: {damaged}: __0_0.distcp has the right size, but its content" in done.stderr
    assert done.stderr.count("error: ") == 1


def test_an_unreadable_checkpoint_is_not_to_be_replaced(meditron, run):
    file = run.path("checkpoints") / "iter_0000020/__0_0.distcp"
    file.chmod(0)

    done = run_plainly("checkpoints", run.name, "--deep", "--runs-dir", str(meditron.runs))

    assert done.returncode == 4
    assert f"error: {file.parent}: __0_0.distcp: Permission denied\n" in done.stderr
    assert "hint: its content is not known; check it as a user who can read it" in done.stderr
    assert "replace" not in done.stderr


def test_deep_leaves_out_a_checkpoint_that_training_prunes_meanwhile(meditron, run):
    folder = run.path("checkpoints")
    entries = list(list_checkpoints(folder, time.time()))
    shutil.rmtree(folder / "iter_0000010")

    verified = verify_all(folder, entries)

    assert [(entry.path.name, entry.state) for entry in verified] == [
        ("iter_0000020", "valid"),
        ("iter_0000000", "valid"),
    ]


def test_storage_that_does_not_respond_is_reported(meditron, run):
    record = run.path("checkpoints") / "iter_0000020/meditron.json"
    record.unlink()
    record.symlink_to(record)

    code, found = listed(meditron, run)

    assert code == 4
    assert (found["iter_0000020"]["state"], found["iter_0000020"]["problem"]) == (
        "unreadable",
        "Too many levels of symbolic links",
    )
