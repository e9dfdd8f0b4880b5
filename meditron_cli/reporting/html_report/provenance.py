"""Provenance of a run's results, and differences between the configurations of runs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jobs.contract.stage_specs import PRETRAIN
from meditron_cli.reporting import tables
from meditron_cli.reporting.report import RunReport
from meditron_cli.runs import request

Facts = Mapping[str, Any]


def record_of(report: RunReport) -> dict[str, Any]:
    """Return the first request of a run with the newest configuration, and the command that has
    changed it last (``last_command``).
    """
    last = request.last_request(report.run, report.record.history)
    newest = {key: last[key] for key in ("experiment", "cluster", "size")}
    return {**request.read_record(report.run), **newest, "last_command": last["command"]}


def rows(report: RunReport, record: Facts) -> Iterator[tuple[str, str]]:
    """Yield what produced a run: command, code, versions, weights, corpora."""
    yield "run directory", str(report.run.root)
    command, last = (" ".join(record.get(key) or ()) for key in ("command", "last_command"))
    yield "command", command
    if last != command:
        yield "last changed by", last
    yield "submitted", tables.moment(record["time"])
    yield "by", f"{record.get('user')} on {record.get('host')}"
    yield "cluster", f"{report.record.cluster}, size {record.get('size')}"
    code = record.get("code") or {}
    if code.get("commit"):
        changed = ", with uncommitted changes" if code.get("dirty") else ""
        yield "code", f"commit {code['commit']}{changed}"
    yield "versions", ", ".join(f"{name} {v}" for name, v in (record.get("versions") or {}).items())
    pretrain = report.results[PRETRAIN]
    if pretrain["weights"]:
        yield "weights", pretrain["weights"]
    for name, value in (pretrain["origin"] or {}).items():
        if isinstance(value, str | int):
            yield f"weights: {name}", str(value)
    for corpus in pretrain["corpora"]:
        yield (
            f"corpus {corpus['name']}",
            f"{corpus['tokens']:,} tokens, {corpus['epochs']:.2f} epochs",
        )
    digests = {
        item["benchmark"]: (item.get("digests") or {}).get("benchmark")
        for item in report.results["evaluations"]
    }
    yield from (
        (f"benchmark {name}", f"SHA-256 {known}") for name, known in digests.items() if known
    )


def flat(value: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield the settings of a configuration: dotted key and text of the value."""
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from flat(item, f"{prefix}.{key}" if prefix else str(key))
    elif (
        isinstance(value, Sequence)
        and not isinstance(value, str)
        and any(isinstance(item, Mapping) for item in value)
    ):
        for place, item in enumerate(value):
            yield from flat(item, f"{prefix}[{place}]")
    else:
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        yield prefix, "-" if value is None else text


OF_PROFILE = (
    ("name",),
    ("device",),
    ("gpu_partition", "name"),
    ("gpu_partition", "nodes"),
    ("gpu_partition", "node", "gpus"),
    ("gpu_partition", "node", "gpu_kind"),
    ("gpu_partition", "node", "gpu_memory_gb"),
    ("environment", "modules"),
    ("environment", "container"),
    ("environment", "stages"),
    ("environment", "set"),
    ("accounting",),
)
"""The parts of a profile that matter to results, speed and cost; others are about the site."""


def of_profile(cluster: Facts) -> Iterator[tuple[str, Any]]:
    """Yield dotted key and value of these parts."""
    for path in OF_PROFILE:
        found: Any = cluster
        for key in path:
            found = found.get(key) if isinstance(found, Mapping) else None
        yield ".".join(path), found


def differences(records: Sequence[Facts]) -> list[tuple[str, ...]]:
    """Return the settings that are not equal in all runs: key, then the value in each run."""
    settings = [
        dict(
            flat(
                {
                    **record["experiment"],
                    "size": record["size"],
                    "cluster": dict(of_profile(record["cluster"])),
                    "commit": (record.get("code") or {}).get("commit"),
                    "versions": record.get("versions") or {},
                }
            )
        )
        for record in records
    ]
    keys = dict.fromkeys(key for values in settings for key in values)
    table = [(key, *(values.get(key, "-") for values in settings)) for key in keys]
    return [row for row in table if len(set(row[1:])) > 1]
