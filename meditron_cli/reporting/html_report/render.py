"""Make the HTML report: one page with its style sheet, programs and data."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from meditron_cli import __version__
from meditron_cli.errors import ConfigError
from meditron_cli.reporting import tables
from meditron_cli.reporting.html_report import (
    charts,
    curves,
    grid,
    node_map,
    page_content,
    provenance,
    summary,
)
from meditron_cli.reporting.report import RunReport
from meditron_cli.reporting.tables import Table

FOLDER = Path(__file__).parent
PROGRAMS = ("vega", "vega-lite", "vega-embed")
ROWS = 200
"""Most rows of a table of the page, the newest."""

PLACES = {
    "corpus": "corpus",
    "sources": "corpus",
    "tokenization": "corpus",
    "pretraining": "training",
    "finetuned models": "training",
    "spikes": "training",
    "time": "time",
    "time of training": "time",
    "interruptions of training": "attempts",
    "errors": "attempts",
    "verification": "evaluation",
    "generation": "evaluation",
    "where": "provenance",
}
"""The section of each table of ``meditron report``; ``evaluation`` for all others."""


def page(reports: Sequence[RunReport], found: Iterable[Iterable[Table]], now: float) -> str:
    """Return the page of one run, or of several side by side.

    Args:
        found: the tables of ``meditron report`` of each run.
        now: seconds since 1970.

    Raises:
        ConfigError: a run's record cannot be read, or Jinja2 is not installed.
    """
    environment = load()
    records = [provenance.record_of(report) for report in reports]
    groups = list(page_content.curve_groups(reports))
    attempts = page_content.attempt_rows(reports, now)
    plain = plain_charts(reports, attempts)
    drawn = {chart.name: chart for chart in (*plain, *(c for g in groups for c in g.charts))}
    one = reports[0] if len(reports) == 1 else None
    values = {
        "reports": reports,
        "one": one,
        "title": " · ".join(report.name for report in reports),
        "version": __version__,
        "made": tables.moment(now),
        "groups": groups,
        "charts": drawn,
        "tables": by_section(found) if one else compared(reports),
        "alarms": alarm_table(one) if one else None,
        "nodes": node_map.nodes_of(one) if one else [],
        "most_nodes": node_map.NODES,
        **of_runs(reports, records),
        **of_attempts(reports, now),
        **files(),
        "content": data_of_charts(drawn.values(), groups, attempts),
    }
    sections = shown_sections(values, has_attempts=bool(attempts))
    text: str = environment.get_template("page.html.j2").render(values, sections=sections)
    return text


def shown_sections(values: Mapping[str, Any], has_attempts: bool) -> dict[str, str]:
    """Return the titles of the sections that have something, by their names."""
    one, drawn, own = values["one"], values["charts"], values["tables"]
    sections = {
        "summary": True,
        "differences": not one,
        "training": values["groups"] or "training" in own,
        "attempts": has_attempts,
        "time": "time-chart" in drawn or "time" in own,
        "corpus": "funnel" in drawn or "corpus" in own,
        "evaluation": "scores" in drawn or (one and "evaluation" in own),
        "nodes": values["nodes"],
        "energy": any(rows for _, rows in values["energy"]),
        "provenance": True,
    }
    return {name: name.capitalize() for name, shown in sections.items() if shown}


def of_runs(reports: Sequence[RunReport], records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what the page has of each run: summary, figures, energy, provenance, settings."""
    both = list(zip(reports, records, strict=True))
    return {
        "summaries": [list(summary.sentences(report, record["size"])) for report, record in both],
        "figures": [list(summary.figures(report.results)) for report in reports],
        "labels": summary.FIGURES,
        "notes": page_content.notes(reports),
        "energy": [(item.name, list(summary.energy_rows(item.results))) for item in reports],
        "provenance": [(item.name, list(provenance.rows(item, record))) for item, record in both],
        "differences": provenance.differences(records) if len(records) > 1 else [],
        "settings": list(provenance.flat(records[0]["experiment"])),
    }


def of_attempts(reports: Sequence[RunReport], now: float) -> dict[str, Any]:
    """Return what the page has of attempts beside their chart."""
    return {
        "causes": [(report.name, page_content.cause_rows(report.times)) for report in reports],
        "attempt_table": attempt_table(reports[0], now) if len(reports) == 1 else None,
        "attempt_count": sum(len(report.times.attempts) for report in reports),
        "bars": page_content.BARS,
    }


def files() -> dict[str, Any]:
    """Return the page's programs and its style sheet."""
    return {
        "programs": [program(name) for name in PROGRAMS],
        "style": (FOLDER / "page.css").read_text(encoding="utf-8"),
        "script": (FOLDER / "page.js").read_text(encoding="utf-8"),
    }


def data_of_charts(
    drawn: Iterable[charts.Chart],
    groups: Iterable[page_content.CurveGroup],
    attempts: Sequence[curves.Row],
) -> dict[str, Any]:
    """Return what the page's program reads: charts, their data, the whole range of each axis."""
    data = {name: rows for group in groups for name, rows in group.data.items()}
    ranges = {group.kind: (0, group.most) for group in groups}
    return {
        "config": charts.CONFIG,
        "charts": [chart.to_json() for chart in drawn],
        "data": {**data, "attempts": curves.dataset(page_content.ATTEMPT_COLUMNS, attempts)},
        "ranges": {**ranges, "time": time_range(attempts)},
    }


def load() -> Any:
    """Return the templates.

    Raises:
        ConfigError: Jinja2 is not installed.
    """
    try:
        import jinja2
    except ModuleNotFoundError as error:
        raise ConfigError(
            "the library jinja2 is not installed", "`pip install 'meditron[report]'`"
        ) from error
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["raw"] = raw
    environment.filters["has"] = has
    environment.filters["classes"] = grid.classes
    environment.filters["is_short"] = grid.is_short
    return environment


def raw(value: Any) -> str:
    """Return a value of ``report --json`` as JSON; of a list its length."""
    return json.dumps(len(value) if isinstance(value, list) else value)


def has(found: Sequence[Sequence[summary.Figure]], key: str) -> bool:
    """Return whether any run has a figure."""
    return any(figure.key == key for figures in found for figure in figures)


def time_range(attempts: Sequence[curves.Row]) -> tuple[int, int]:
    """Return the first and the last time of the timeline, in milliseconds."""
    begins, ends = [row[2] for row in attempts], [row[3] for row in attempts]
    return min(begins, default=0), max(ends, default=0)


def program(name: str) -> str:
    """Return a program that draws charts, without the address of its source map."""
    text = (FOLDER / f"vendor/{name}.min.js").read_text(encoding="utf-8")
    return re.sub(r"\n//# sourceMappingURL=.*\s*$", "", text)


def plain_charts(reports: Sequence[RunReport], attempts: Sequence[Any]) -> list[charts.Chart]:
    """Return the charts beside the curves of trainings, as far as there is something to show."""
    found = [page_content.score_chart(reports)]
    if attempts:
        lanes, outcomes = {row[0] for row in attempts}, {row[6] for row in attempts}
        found.append(charts.timeline(lanes, outcomes))
    if rows := page_content.time_rows(reports):
        found.append(charts.time_breakdown(rows))
    if len(reports) == 1:
        found.append(page_content.funnel_chart(reports[0].results["corpus"]["sources"]))
    return [chart for chart in found if chart is not None]


def by_section(found: Iterable[Iterable[Table]]) -> Mapping[str, list[Table]]:
    """Return the tables of a run that have rows, by the section that they belong to."""
    sections: dict[str, list[Table]] = {}
    for title, columns, rows in (table for tables_of_run in found for table in tables_of_run):
        if title == "sources":  # the chart above shows their bars
            columns, rows = (*columns[:4], columns[5]), [(*row[:4], row[5]) for row in rows]
        if rows:
            section = PLACES.get(title, "evaluation")
            table = grid.without_empty_columns(shortened(title, columns, rows))
            sections.setdefault(section, []).append(table)
    return sections


def shortened(title: str, columns: tuple[str, ...], rows: Sequence[tuple[object, ...]]) -> Table:
    """Return a table with its last rows, and in its title how many there are."""
    if len(rows) > ROWS:
        title = f"{title} (the last {ROWS} of {len(rows):,})"
    return title, columns, list(rows[-ROWS:])


def compared(reports: Sequence[RunReport]) -> Mapping[str, list[Table]]:
    """Return the tables of several runs that have rows."""
    found = [page_content.compared_scores(reports), *page_content.paired_scores(reports)]
    return {"evaluation": [table for table in found if table[2]]}


def task_name(report: RunReport, stage: str, index: int) -> str:
    """Return the stage of a task, with its index where the stage has several."""
    known = report.view.stages.get(stage)
    return f"{stage} {index}" if known and known.total > 1 else stage


def alarm_table(report: RunReport) -> Table:
    """Return the table of a run's newest alarms."""
    rows: list[tuple[object, ...]] = [
        (
            tables.moment(item["time"]),
            item["verdict"],
            item["code"],
            f"{task_name(report, item['stage'], item['index'])} attempt {item['attempt']}",
            item["message"],
        )
        for item in reversed(report.results["alarms"][-ROWS:])
    ]
    return "alarms", ("time", "verdict", "alarm", "of", "what"), rows


def attempt_table(report: RunReport, now: float) -> Table:
    """Return the table of a run's newest attempts, with why each ended."""
    columns = ("stage", "attempt", "job", "nodes", "began", "lasted", "steps", "ended", "why")
    rows: list[tuple[object, ...]] = []
    for attempt in reversed(report.times.attempts[-ROWS:]):
        row = tables.attempt_row(report.times, attempt, report.view, now)
        _, _, number, job, nodes, began, lasted, steps, ended, action = row
        end = ", ".join(str(part) for part in (ended, action) if part)
        name = task_name(report, attempt.stage, attempt.index)
        rows.append((name, number, job, nodes, began, lasted, steps, end, attempt.sentence))
    return "attempts", columns, rows
