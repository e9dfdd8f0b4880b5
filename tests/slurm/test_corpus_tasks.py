"""A corpus that several tasks make, on a real Slurm."""

from __future__ import annotations

import pytest

from jobs.contract.rundir import RunDir

from .cluster import Cluster
from .desk import Answer, array_of, make_desk

pytestmark = pytest.mark.slurm


def content(run: RunDir) -> dict[str, bytes]:
    """Return the files of a run's corpus."""
    folder = run.path("corpus")
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_arrays_of_tasks_make_the_corpus_that_one_task_makes(
    slurm: Cluster, tmp_path_factory: pytest.TempPathFactory
) -> None:
    desk = make_desk(tmp_path_factory.mktemp("desk"), slurm)
    for number in range(2):  # a piece of work each
        (desk.folder / f"more-{number}.jsonl").write_bytes(
            (desk.folder / "docs.jsonl").read_bytes()
        )
    sources = "curate.sources=[docs.jsonl, more-0.jsonl, more-1.jsonl]"

    def submit(tasks: int) -> Answer:
        sets = (sources, "curate.task_mb=0", f"curate.tasks={tasks}", f"name=tasks-{tasks}")
        answer = desk.submit("curate", *sets)
        desk.wait_end(*(job for ids in answer.jobs.values() for job in ids))
        return answer

    one, several = submit(1), submit(3)

    assert list(one.jobs) == ["curate"]
    assert list(several.jobs) == ["clean", "deduplicate", "curate"]
    assert len(array_of(several.jobs["clean"])) == len(array_of(several.jobs["curate"])) == 1
    assert desk.status(several.run)["state"] == "succeeded"
    assert {name: stage["done"] for name, stage in desk.status(several.run)["stages"].items()} == {
        "clean": 3,
        "deduplicate": 1,
        "curate": 3,
    }
    assert content(several.run) == content(one.run)
