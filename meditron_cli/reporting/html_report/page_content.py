"""Charts and tables of one or several runs, from their reports."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jobs.contract import specs
from jobs.contract.rundir import RunDir
from jobs.contract.stage_specs import FINETUNE, PRETRAIN, FinetuneSpec
from meditron_cli.reporting import comparisons, finetuned, score_tables, scores, tables
from meditron_cli.reporting.attempts import Attempt
from meditron_cli.reporting.goodput import BUCKETS
from meditron_cli.reporting.html_report import charts, curves
from meditron_cli.reporting.html_report.charts import Chart
from meditron_cli.reporting.html_report.curves import Training
from meditron_cli.reporting.report import RunReport
from meditron_cli.reporting.run_times import RunTimes

TITLES = {PRETRAIN: "Pretraining", FINETUNE: "Finetuning"}
"""Titles of the curves of each training stage."""


def trainings(report: RunReport, stage: str, several_runs: bool) -> Iterator[Training]:
    """Yield the trainings of a stage that have made steps."""
    for (name, index), counted in sorted(report.times.trainings.items()):
        if name != stage or not counted.trained:
            continue
        model = model_of(report.run, index) if stage == FINETUNE else ""
        label = " ".join(part for part in (report.name if several_runs else "", model) if part)
        own = [item for item in report.times.attempts if (item.stage, item.index) == (stage, index)]
        yield Training(label, counted, own)


def model_of(run: RunDir, index: int) -> str:
    """Return the name of a finetuned model; its task where another version has written that."""
    task = specs.read_task(run, FINETUNE, index)
    return task.spec.name if task and isinstance(task.spec, FinetuneSpec) else f"task {index}"


@dataclass(frozen=True)
class CurveGroup:
    """The curves of one kind of training, which are zoomed together."""

    kind: str
    title: str
    charts: Sequence[Chart]
    data: Mapping[str, curves.Data]
    most: int
    """Tokens at the right end."""


def notes(reports: Sequence[RunReport]) -> list[str]:
    """Return the warnings of ``meditron report`` about the rows that models were finetuned on."""
    return [
        f"{report.name}: {sentence}" if len(reports) > 1 else sentence
        for report in reports
        for sentence in finetuned.notes(report.results["finetuned"])
    ]


def curve_groups(reports: Sequence[RunReport]) -> Iterator[CurveGroup]:
    """Yield the curves of all trainings of runs."""
    for stage, title in TITLES.items():
        found = [item for report in reports for item in trainings(report, stage, len(reports) > 1)]
        if not found:
            continue
        has_range = any(len(item.counted.trained) > curves.POINTS for item in found)
        drawn = list(charts.curves(stage, [item.name for item in found], has_range))
        if not any(item.counted.validated for item in found):
            drawn = [chart for chart in drawn if not chart.name.endswith("-validation")]
        most = max(curves.tokens_seen(item) for item in found)
        yield CurveGroup(stage, title, drawn, curves.datasets(stage, found), most)


BARS = 2000
"""Most attempts in the timeline, the newest."""

OUTCOME_OF = {
    "": "running",
    "completed": "finished",
    **dict.fromkeys(("preempted", "time_limit", "stopped", "cancelled"), "preempted or stopped"),
    **dict.fromkeys(("node_fail", "unhealthy", "gpu_hardware"), "node or GPU"),
    **dict.fromkeys(("hang", "launch"), "hang or launch"),
    **dict.fromkeys(("cuda_oom", "host_oom"), "memory"),
    **dict.fromkeys(("storage", "checkpoint", "data"), "storage or data"),
}
"""Groups of root causes; ``program`` for all others."""

ATTEMPT_COLUMNS = (
    "lane", "attempt", "began", "ended", "lasted", "nodes", "outcome", "ended with", "why",
)  # fmt: skip


def outcome_of(attempt: Attempt) -> str:
    """Return the group of an attempt's root cause."""
    return OUTCOME_OF.get(attempt.cause, "program")


def attempt_rows(reports: Sequence[RunReport], now: float) -> list[curves.Row]:
    """Return the newest attempts as bars of the timeline; times in milliseconds."""
    every = [(report, attempt) for report in reports for attempt in report.times.attempts]
    every.sort(key=lambda pair: pair[1].began)
    shown = every[-BARS:]
    rows = []
    for report, attempt in shown:
        end = attempt.ended if attempt.ended is not None else max(now, attempt.began)
        rows.append(
            (
                lane(report, attempt.stage, len(reports) > 1),
                f"{attempt.number} (job {attempt.job_id})",
                round(attempt.began * 1000),
                round(end * 1000),
                tables.clock(end - attempt.began),
                tables.nodes_text(attempt.nodes) or "",
                outcome_of(attempt),
                attempt.outcome,
                attempt.sentence,
            )
        )
    stages = (
        lane(report, stage, len(reports) > 1) for report in reports for stage in report.view.stages
    )
    places = {name: place for place, name in enumerate(stages)}
    return sorted(rows, key=lambda row: places.get(row[0], -1))


def lane(report: RunReport, stage: str, several_runs: bool) -> str:
    """Return the lane of a stage's attempts: of several runs with the name of its own."""
    return f"{report.name}\n{stage}" if several_runs else stage


def cause_rows(times: RunTimes) -> list[tuple[object, ...]]:
    """Return the root causes of attempts that ended early, the most frequent first, with what they
    cost.
    """
    counts = Counter(item.attempt.cause for item in times.interruptions)
    redone, down = Counter[str](), Counter[str]()
    for item in times.interruptions:
        redone[item.attempt.cause] += item.steps_redone or 0
        down[item.attempt.cause] += round(item.resume_s or 0.0)
    return [
        (cause.replace("_", " "), f"{count:,}", f"{redone[cause]:,}", tables.clock(down[cause]))
        for cause, count in counts.most_common()
    ]


def time_rows(reports: Sequence[RunReport]) -> list[dict[str, Any]]:
    """Return the seconds of each kind of time of the runs' trainings."""
    return [
        {
            "of": report.name,
            "bucket": bucket,
            "value": round(account.buckets[bucket], 1),
            "text": tables.clock(account.buckets[bucket]),
        }
        for report in reports
        if (account := report.times.training) is not None and account.wall
        for bucket in BUCKETS
        if account.buckets[bucket]
    ]


def funnel_chart(sources: Sequence[Mapping[str, Any]]) -> Chart | None:
    """Return the chart of what became of the records of each source."""
    rows, dropped = [], Counter[str]()
    for item in sources:
        for reason, count in item["dropped"].items():
            dropped[reason] += count
    shown = [reason for reason, _ in dropped.most_common(6)]
    for item in sources:
        parts = {"kept": item["kept"], **{name: item["dropped"].get(name, 0) for name in shown}}
        parts["other reasons"] = item["in"] - sum(parts.values())
        rows += [
            {"of": item["name"], "part": part, "value": count, "text": f"{count:,}"}
            for part, count in parts.items()
            if count > 0
        ]
    names = [
        name for name in ("kept", *shown, "other reasons") if any(r["part"] == name for r in rows)
    ]
    colours = dict(zip(names, ["var(--good)", *charts.COLOURS[1:8]], strict=False))
    if not rows:
        return None
    text = "The share of each source's records that was kept, or dropped by reason."
    return charts.bars("funnel", "Records", text, rows, {"field": "part", "colours": colours})


def score_chart(reports: Sequence[RunReport]) -> Chart | None:
    """Return the chart of the runs' scores beside published ones."""
    found = [
        (report.name if len(reports) > 1 else "", item)
        for report in reports
        for item in report.results["evaluations"]
    ]
    published = {
        (item["benchmark"], item["model"], item["table"]): item
        for report in reports
        for item in report.results["published"]
    }
    rows: list[dict[str, Any]] = []
    between = "\n" if len(reports) > 1 else " "
    for benchmark in dict.fromkeys(item["benchmark"] for _, item in found):
        rows.append({"line": f"{len(rows)}#\t{benchmark}", "from": "ours"})
        for run, item in found:
            if item["benchmark"] == benchmark:
                rows.append(own_score(len(rows), run, item))
        for item in published.values():
            if item["benchmark"] == benchmark:
                label = f"{item['model']}{between}({item['table']})"
                rows.append(
                    {
                        "line": f"{len(rows)}\t{label}",
                        "from": "published",
                        "value": item["published"],
                        "text": f"{' '.join(label.split())}: {item['published']:.1%}",
                    }
                )
    return charts.scores(rows) if rows else None


def own_score(place: int, run: str, item: Mapping[str, Any]) -> dict[str, Any]:
    """Return the row of a score of ours in the chart of scores."""
    label = "\n".join(filter(None, (run, f"{item['checkpoint_name']} {item['protocol']}")))
    low, high = item["ci95"]
    return {
        "line": f"{place}\t{label}",
        "from": "ours",
        "value": item["accuracy"],
        "low": low,
        "high": high,
        "chance": item["chance"],
        "text": " ".join(label.split()) + f": {item['accuracy']:.1%} ({low:.1%} to {high:.1%}), "
        f"{item['n']} questions",
    }


def compared_scores(reports: Sequence[RunReport]) -> tables.Table:
    """Return the table of scores of several runs side by side."""
    columns = ("benchmark", "of", *(report.name for report in reports))
    cells: dict[tuple[str, str], dict[str, str]] = {}
    for report in reports:
        for item in report.results["evaluations"]:
            of = f"{item['checkpoint_name']} {item['protocol']}"
            text = f"{item['accuracy']:.1%} ({score_tables.interval(item['ci95'])})"
            cells.setdefault((item["benchmark"], of), {})[report.name] = text
    rows = [(*key, *(found.get(report.name) for report in reports)) for key, found in cells.items()]
    return "accuracy (95 % interval)", columns, list(rows)


def paired_scores(reports: Sequence[RunReport]) -> Iterator[tables.Table]:
    """Yield the paired tests of each further run against the first one."""
    first, *others = reports
    columns = ("benchmark", "of", "points", "95 % interval", "won/lost", "p")
    for other in others:
        found = comparisons.pairs(scores.of_run(first.run), scores.of_run(other.run))
        rows = [score_tables.paired_row(item) for item in found]
        title = f"{other.name} against {first.name}: paired tests (McNemar's, Holm's correction)"
        yield title, columns, [(benchmark, of, *rest) for benchmark, of, _, *rest in rows]
