"""The facts of `doctor` lie below the profile, with their source."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from jobs.contract.files import FORMAT
from meditron_cli.config import facts_file
from meditron_cli.config.cluster_schema import Reached
from meditron_cli.config.explain import ExplainQuery, explain
from meditron_cli.config.facts_file import Facts, PartitionFacts, SlurmFacts, Speeds
from meditron_cli.config.load import Loaded, load

PROFILE = """\
name: site
scheduler: slurm
device: cuda
qos: normal
gpu_partition:
  name: gpu
  nodes: 2
  node: {gpus: 4, cpus: 16, memory_gb: 64}
"""

FACTS = Facts(
    cluster="site",
    time=1_700_000_000.0,
    partitions={"gpu": PartitionFacts("normal", grace_seconds=30, max_time_minutes=1440)},
    slurm=SlurmFacts(max_array_size=5000, requeue=False, submit_from_jobs=False),
)


SPEEDS = Speeds("gpu", 1_700_000_500.0, ("n1", "n2"), product_tflops=610.5, link_gb_s=340.0)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with a profile, and a cache of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "site.yaml").write_text(PROFILE)
    return tmp_path


def loaded(with_facts: bool = True) -> Loaded:
    return load("site.yaml", "tiny", None, [], with_facts)


def explained(key: str) -> tuple[object, str, str]:
    (found,) = explain(key, ExplainQuery("site.yaml", None, None, ()))
    return found.value, found.origin, found.place


def test_facts_fill_in_the_keys_that_a_profile_omits(home: Path) -> None:
    facts_file.write(facts_file.path_of("site"), FACTS)

    cluster = loaded().cluster

    assert cluster.gpu_partition.grace_seconds == 30
    assert cluster.gpu_partition.max_time_minutes == 1440
    assert cluster.slurm.max_array_size == 5000
    assert (cluster.slurm.requeue, cluster.slurm.submit_from_jobs) == (False, False)


def test_a_profile_takes_precedence(home: Path) -> None:
    written = PROFILE + "  grace_seconds: 90\nslurm: {max_array_size: 101, requeue: true}\n"
    (home / "site.yaml").write_text(written)
    facts_file.write(facts_file.path_of("site"), FACTS)

    cluster = loaded().cluster

    assert cluster.gpu_partition.grace_seconds == 90
    assert (cluster.slurm.max_array_size, cluster.slurm.requeue) == (101, True)


def test_what_is_not_known_stays_as_it_was(home: Path) -> None:
    facts_file.write(
        facts_file.path_of("site"),
        replace(FACTS, partitions={"gpu": PartitionFacts("normal", None, 0)}, slurm=SlurmFacts()),
    )

    assert loaded().cluster == loaded(with_facts=False).cluster


@pytest.mark.parametrize(
    "partitions",
    [
        {"other": PartitionFacts("normal", 30, 1440)},
        {"gpu": PartitionFacts("long", 30, 1440)},
    ],
)
def test_facts_of_another_partition_or_quality_of_service_are_ignored(
    home: Path, partitions: dict[str, PartitionFacts]
) -> None:
    facts_file.write(facts_file.path_of("site"), replace(FACTS, partitions=partitions))

    assert loaded().cluster.gpu_partition.grace_seconds is None


def test_speeds_that_a_selftest_measured_are_those_of_the_partitions_nodes(home: Path) -> None:
    facts_file.write(facts_file.path_of("site"), replace(FACTS, speeds=SPEEDS))

    partition = loaded().cluster.gpu_partition

    assert partition.node.reached == Reached(product_tflops=610.5, link_gb_s=340.0)
    assert partition.grace_seconds == 30
    assert explained("cluster.gpu_partition.node.reached.link_gb_s")[0] == 340.0


def test_speeds_of_the_profile_take_precedence_and_those_of_another_partition_are_none(
    home: Path,
) -> None:
    own = PROFILE.replace("memory_gb: 64", "memory_gb: 64, reached: {link_gb_s: 100}")
    (home / "site.yaml").write_text(own)
    facts_file.write(facts_file.path_of("site"), replace(FACTS, speeds=SPEEDS))
    both = loaded().cluster.gpu_partition.node.reached
    facts_file.write(
        facts_file.path_of("site"), replace(FACTS, speeds=replace(SPEEDS, partition="other"))
    )

    assert both == Reached(product_tflops=610.5, link_gb_s=100.0)
    assert loaded().cluster.gpu_partition.node.reached == Reached(link_gb_s=100.0)


def test_explain_names_the_cache_file_as_the_source(home: Path) -> None:
    facts_file.write(facts_file.path_of("site"), FACTS)

    file = "cache/meditron/clusters/site.json"
    assert explained("cluster.gpu_partition.grace_seconds") == (30, "facts", file)
    assert explained("cluster.slurm.requeue") == (False, "facts", file)
    assert explained("cluster.gpu_partition.nodes") == (2, "profile", "site.yaml:7:10")


def test_a_cluster_that_was_never_examined_has_no_facts(home: Path) -> None:
    assert loaded().known is None
    assert explained("cluster.gpu_partition.grace_seconds") == (None, "default", "")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"format": 1}',
        f'{{"format": {FORMAT}}}',
        json.dumps(
            {
                "format": FORMAT,
                "cluster": "site",
                "time": 1,
                "partitions": [],
                "slurm": {},
                "probe": None,
            }
        ),
        json.dumps(
            {
                "format": FORMAT,
                "cluster": "site",
                "time": 1.0,
                "partitions": {"gpu": {"qos": "", "grace_seconds": "30", "max_time_minutes": 5}},
                "slurm": {"max_array_size": 5, "requeue": True, "submit_from_jobs": True},
                "probe": None,
            }
        ),
    ],
)
def test_a_broken_file_is_omitted_with_a_warning(home: Path, text: str) -> None:
    path = facts_file.path_of("site")
    path.parent.mkdir(parents=True)
    path.write_text(text)

    found = loaded()

    assert found.cluster == loaded(with_facts=False).cluster
    assert found.known
    assert found.known.time is None
    (warning,) = found.known.warnings(now=0.0)
    assert "site.json" in warning
    assert "left out; `meditron doctor --cluster site` writes it again" in warning


def test_the_age_of_facts_is_shown_and_doubted_when_they_are_old(home: Path) -> None:
    facts_file.write(facts_file.path_of("site"), FACTS)
    known = loaded().known
    assert known

    file = "cache/meditron/clusters/site.json"
    assert known.age(FACTS.time + 7500) == f"facts about the cluster: {file}, 2 hours old"
    assert known.warnings(FACTS.time + 29 * 86400) == []
    assert known.warnings(FACTS.time + 31 * 86400) == [
        f"facts about the cluster: {file}, 31 days old; "
        "`meditron doctor --cluster site` checks again"
    ]


def test_a_cache_file_holds_what_was_written(tmp_path: Path) -> None:
    probe = facts_file.Probe("12", "/runs/.doctor-1", 1.0, {"nodes": []})
    path = tmp_path / "a" / "site.json"
    whole = replace(FACTS, probe=probe, speeds=SPEEDS)
    facts_file.write(path, whole)

    assert facts_file.read(path) == whole
    assert facts_file.read(tmp_path / "none.json") is None


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "less than a minute"), (60, "1 minute"), (7199, "1 hour"), (86400 * 3, "3 days")],
)
def test_ages_are_short(seconds: float, words: str) -> None:
    assert facts_file.age(seconds) == words
