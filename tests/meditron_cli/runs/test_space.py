"""The space that a plan's run takes, beside the disk and a quota."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.checkpoints import manifest
from jobs.contract.rundir import RunDir
from jobs.contract.units import GIB
from meditron_cli.plan.disk import disk_need_of
from meditron_cli.runs.space import space_warnings

from ...conftest import Bench
from ...plans import plan_of


@pytest.fixture
def quota(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the file with the GiB that the tool ``lfs``, all of PATH, reports as left."""
    tools = tmp_path / "bin"
    tools.mkdir()
    left = tmp_path / "left"
    line = f'echo "/x 0 $(( $(/bin/cat {left}) << 20 )) $(( $(/bin/cat {left}) << 20 )) - 5 0 0 -"'
    (tools / "lfs").write_text(f"#!/bin/sh\n{line}\n")
    (tools / "lfs").chmod(0o755)
    monkeypatch.setenv("PATH", str(tools))
    return left


def test_a_quota_that_leaves_too_little_is_a_warning(tmp_path: Path, quota: Path) -> None:
    plan = plan_of(
        "test-slurm", "tiny", "pretrain.keep_checkpoints=100", "pretrain.save_interval=1"
    )
    need = disk_need_of(plan)
    assert need is not None
    assert GIB < need.total < 50 * GIB
    root = tmp_path / "runs" / "not there yet"
    run = RunDir(root / "new")

    quota.write_text("50")
    enough = list(space_warnings(plan, run))
    quota.write_text("1")
    (sentence,) = space_warnings(plan, run)

    assert enough == []
    assert sentence == (
        f"checkpoints and exports take up to {need.total / GIB:,.1f} GiB, your quota at {root} "
        "leaves 1.0; lower pretrain.keep_checkpoints, set pretrain.keep_weights_only, or free some"
    )


def test_a_disk_that_is_too_small_is_a_warning(tmp_path: Path) -> None:
    steps = ", ".join(str(step) for step in range(1, 700))
    plan = plan_of("rcp", "70b", f"pretrain.keep_steps=[{steps}]")  # as weights, by the recipe

    (sentence,) = space_warnings(plan, RunDir(tmp_path / "new"))

    assert f"the disk of {tmp_path} has" in sentence
    assert sentence.endswith("; lower pretrain.keep_checkpoints, or free some")


def test_stages_without_training_need_no_space(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "new")

    assert list(space_warnings(plan_of("rcp", "70b", stages=("curate",)), run)) == []


def test_a_run_that_is_continued_needs_what_it_has_not_written(tmp_path: Path, quota: Path) -> None:
    """The rest of 500 steps has one save and a hundred checkpoints to keep."""
    steps = ", ".join(map(str, (*range(1, 201), *range(401, 501))))
    plan = plan_of("test-slurm", "tiny", f"pretrain.keep_steps=[{steps}]")
    run = RunDir(tmp_path / "runs" / "a")
    spec = plan.training.tasks[0].training
    assert spec
    for step in range(205):
        folder = run.path("checkpoints") / manifest.name(step)
        folder.mkdir(parents=True)
        (folder / manifest.RECORD).write_text("{}")

    quota.write_text("1")
    (sentence,) = space_warnings(plan, run)

    need = 101 * spec.model.checkpoint_bytes(spec.precision) / GIB
    assert sentence.startswith(f"checkpoints and exports take up to {need:,.1f} GiB more, your")


def test_plan_and_submit_warn_for_a_run_that_is_continued(meditron: Bench, quota: Path) -> None:
    quota.write_text("50")
    assert meditron.submit().exit_code == 0
    quota.write_text("1")
    config = str(meditron.folder / "experiment.yaml")
    target = ("--cluster", "local", "--size", "tiny", "--config", config)
    more = ("--set", "pretrain.keep_checkpoints=100", "--set", "pretrain.save_interval=1")

    plan = meditron("plan", "pipeline", *target, *more)
    submit = meditron.submit(*more)

    for done in (plan, submit):
        assert done.exit_code == 0, done.output
        assert "warning: checkpoints and exports take up to " in done.stderr
