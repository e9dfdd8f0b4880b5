"""`meditron report --html`: the content of the page."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from jobs.contract.events import append_event
from jobs.contract.metrics_log import counted_steps
from jobs.contract.rundir import RunDir
from meditron_cli.reporting.html_report import (
    curves,
    grid,
    page_content,
    provenance,
    render,
    summary,
)
from meditron_cli.reporting.html_report.curves import Training
from meditron_cli.reporting.html_report.summary import find

from ....conftest import Bench
from ....metric_lines import step
from ...task_records import TaskRecords
from .conftest import SPIKE, STEPS, Made, written


class Parsed(HTMLParser):
    """The figures, rows and addresses of a page."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.figures: list[tuple[str, str]] = []
        """Key and value."""
        self.sections: list[str] = []
        self.rows: list[list[str]] = []
        self.addresses: list[str] = []
        self._path: list[str] = []
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self._path.append(tag)
        if tag == "data":
            self.figures.append((values["data-key"], values["value"]))
        elif tag == "section":
            self.sections.append(values["id"])
        elif tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
        self.addresses += [values[name] for name in ("src", "href") if name in values]

    def handle_data(self, data: str) -> None:
        if self.rows and self.rows[-1] and self._path[-1:] in (["td"], ["th"]):
            self.rows[-1][-1] += data

    def handle_endtag(self, tag: str) -> None:
        while self._path and self._path.pop() != tag:
            continue


def content(page: Path) -> dict[str, Any]:
    """Return the data of a page's charts."""
    found = re.search(r'id="content">(.*?)</script>', page.read_text(encoding="utf-8"), re.S)
    assert found
    value: dict[str, Any] = json.loads(found[1])
    return value


def rows(page: Path, name: str) -> list[dict[str, Any]]:
    """Return the rows of a chart's data."""
    data = content(page)["data"][name]
    return [dict(zip(data["columns"], row, strict=True)) for row in data["rows"]]


def test_figures_are_those_of_the_json(made: Made) -> None:
    figures = Parsed(made.page).figures

    assert len(figures) > 15
    for key, value in figures:
        expected = find(made.results, key)
        expected = len(expected) if isinstance(expected, list) else expected
        assert json.loads(value) == expected, key


def test_every_section_has_something(page: Path) -> None:
    parsed = Parsed(page)

    assert parsed.sections == [
        "summary", "training", "attempts", "time", "corpus", "evaluation", "nodes", "provenance",
    ]  # fmt: skip
    charts = [chart["name"] for chart in content(page)["charts"]]
    assert charts == [
        "scores", "timeline", "time-chart", "funnel", "pretrain-loss", "pretrain-validation",
        "pretrain-rate", "pretrain-grad", "pretrain-speed",
    ]  # fmt: skip
    assert ["gpu hardware", "1", "0"] in [row[:3] for row in parsed.rows]


def test_a_page_names_no_address(page: Path) -> None:
    addresses = Parsed(page).addresses

    assert [one for one in addresses if not one.startswith(("#", "data:"))] == []
    assert "default-src 'none'" in page.read_text(encoding="utf-8")


def test_messages_of_a_run_stay_text(page: Path) -> None:
    """The message of an attempt is ``XID 79 on GPU 3 </script><b>``."""
    text = page.read_text(encoding="utf-8")

    assert "</script><b>" not in text
    assert "XID 79 on GPU 3 </script><b>" in {row["why"] for row in rows(page, "attempts")}
    assert "XID 79 on GPU 3 &lt;/script&gt;&lt;b&gt;" in text


def test_thinned_curves_keep_extremes_and_both_ends(page: Path) -> None:
    points = rows(page, "pretrain-steps")

    assert len(points) <= curves.POINTS
    assert (points[0]["first"], points[-1]["step"]) == (1, STEPS)
    (spike,) = (point for point in points if point["first"] <= SPIKE <= point["step"])
    assert spike["loss_high"] - spike["loss_low"] > 4.9
    assert spike["loss_low"] < spike["loss"] < spike["loss_high"]


def test_a_short_curve_has_every_step() -> None:
    training = Training("", counted_steps(step(number) for number in range(1, 8)), ())

    assert [row[2] for row in curves.step_rows([training])] == list(range(1, 8))


def test_attempts_are_marked_where_they_resumed(page: Path) -> None:
    marks = [(mark["tokens"], mark["text"]) for mark in rows(page, "pretrain-marks")]

    assert marks == [
        (1000 * 2048, "attempt 2 from step 1,000, after preempted, requeue"),
        (2000 * 2048, "attempt 3 from step 2,000, after gpu hardware, submit"),
    ]


def test_nodes_have_their_findings_and_a_damaged_report_is_left_out(page: Path) -> None:
    text = page.read_text(encoding="utf-8")

    nodes = re.findall(r'<li class="(\w*)">\s*<details><summary><b>(\w+)</b>', text)
    assert nodes == [("FATAL", "node2"), ("WARN", "node1")]
    assert re.findall(r'<i class="cell (\w*)" role="img"', text)[:4] == ["", "WARN", "", "FATAL"]
    assert "pretrain attempt 2: FATAL xid: XID on GPU 3" in text
    assert "pretrain attempt 2: WARN straggler: its ranks take 1.4 times the median" in text


def test_a_run_that_has_only_begun_has_a_page(meditron: Bench, tmp_path: Path) -> None:
    meditron.submit()

    page = written(meditron, tmp_path / "page.html")

    assert Parsed(page).sections == ["summary", "time", "provenance"]
    assert "is pending" in page.read_text(encoding="utf-8")


def test_runs_are_shown_side_by_side(comparison: Path) -> None:
    page = comparison

    found = Parsed(page)
    assert found.sections == [
        "summary", "differences", "training", "attempts", "time", "evaluation", "provenance",
    ]  # fmt: skip
    assert [row[1:] for row in found.rows if row[0] == "pretrain.learning_rate"] == [
        ["0.003", "0.001"]
    ]
    names = {row["training"] for row in rows(page, "pretrain-steps")}
    assert len(names) == 2
    assert [key for key, _ in found.figures].count("pretrain.loss_last") == 2
    (paired,) = (row for row in found.rows if "18/0" in row)
    assert paired[0] == "pm"
    assert ["pm", "600 top-token", *["70.0% (60.0% to 80.0%)"] * 2] in found.rows


def test_a_page_has_the_command_that_changed_the_configuration_last(
    meditron: Bench, tmp_path: Path
) -> None:
    meditron.submit()
    first = json.loads(meditron.run().record.read_text())
    request = {key: first[key] for key in ("experiment", "cluster", "size", "config_file")}
    append_event(meditron.run(), "request", **request, command=["meditron", "submit", "again"])

    page = written(meditron, tmp_path / "page.html")

    commands = {row[0]: row[1] for row in Parsed(page).rows if len(row) == 2}
    assert commands["last changed by"] == "meditron submit again"
    assert commands["command"] == " ".join(first["command"])


def test_warnings_about_the_rows_of_a_finetuned_model_are_on_the_page() -> None:
    model = {
        "model": "taught",
        "prepared": {"difference": "taught: 10 items, 5 fewer than expected"},
    }
    one: Any = SimpleNamespace(name="a", results={"finetuned": [model]})
    other: Any = SimpleNamespace(name="b", results={"finetuned": []})

    assert page_content.notes([one]) == ["taught: 10 items, 5 fewer than expected"]
    assert page_content.notes([one, other]) == ["a: taught: 10 items, 5 fewer than expected"]


def test_settings_are_written_as_in_an_experiment() -> None:
    experiment = {"a": {"b": True, "c": None, "d": [1, "x"]}, "e": [{"f": "é"}], "g": 1e-4}

    assert list(provenance.flat(experiment)) == [
        ("a.b", "true"), ("a.c", "-"), ("a.d", '[1, "x"]'), ("e[0].f", "é"), ("g", "0.0001"),
    ]  # fmt: skip


def test_the_columns_of_numbers_of_a_table() -> None:
    rows = [("loss", "random", None, "5.0 s", ""), ("step", "1", "2,500", "-", None)]
    table = ("t", ("what", "first", "last", "time", "note"), [*rows, ("mfu", "3", "4", "1 s", "-")])

    assert grid.classes(table) == ["", "n", "n", "n", ""]
    assert grid.without_empty_columns(table)[1] == ("what", "first", "last", "time")
    assert grid.without_empty_columns(table)[2][0] == ("loss", "random", None, "5.0 s")


def test_of_many_attempts_the_newest_are_shown(
    meditron: Bench, finish: Callable[..., None], tmp_path: Path
) -> None:
    """Ten thousand attempts, of which every start and every end is an event."""
    meditron.submit()
    run = meditron.run()
    finish(run, "curate", 0)
    append_attempts(run, 10_000)

    page = written(meditron, tmp_path / "page.html")

    shown = rows(page, "attempts")
    assert len(shown) == page_content.BARS
    assert shown[-1]["attempt"] == "10000 (job 104_0)"
    assert page.stat().st_size < 5_000_000
    assert "The newest 2,000 of 10,000 attempts." in page.read_text(encoding="utf-8")


def append_attempts(run: RunDir, count: int) -> None:
    """Append the events of attempts that were preempted, made of those of one."""
    records = TaskRecords(run, 1_700_000_000.0)
    before = len(run.events.read_text().splitlines())
    records.start(1, 0.0)
    records.exit(1, 60.0, "preempted", "requeue")
    pair = [json.loads(line) for line in run.events.read_text().splitlines()[before:]]
    times = ("time", "began", "started", "ended")
    with run.events.open("a") as file:
        for number in range(2, count + 1):
            for event in pair:
                later = {name: event[name] + number * 100 for name in times if name in event}
                file.write(json.dumps({**event, **later, "attempt": number}) + "\n")


def test_the_page_is_named_after_the_run_by_default(trained: Bench) -> None:
    name = trained.run().name

    result = trained("report", name, "--html")

    assert result.stdout == f"{name}.html\n"
    assert (trained.folder / f"{name}.html").is_file()


def test_the_page_and_its_size_are_printed_as_json(trained: Bench) -> None:
    result = trained("report", trained.run().name, "--html", "page.html", "--json")

    size = (trained.folder / "page.html").stat().st_size
    assert json.loads(result.stdout) == {"format": 1, "file": "page.html", "bytes": size}


def test_published_scores_stand_below_ours() -> None:
    ours = {
        "benchmark": "pm", "checkpoint_name": "600", "protocol": "top-token", "accuracy": 0.7,
        "ci95": [0.6, 0.8], "chance": 0.33, "n": 40,
    }  # fmt: skip
    theirs = {"benchmark": "pm", "model": "Meditron-7B", "table": "Table 4", "published": 0.693}
    results = {"evaluations": [ours], "published": [theirs]}
    report: Any = SimpleNamespace(name="run", results=results)

    chart = page_content.score_chart([report])

    assert chart is not None
    drawn = [(row["line"], row.get("value")) for row in chart.spec["data"]["values"]]
    assert drawn == [
        ("0#\tpm", None),
        ("1\t600 top-token", 0.7),
        ("2\tMeditron-7B (Table 4)", 0.693),
    ]


def test_what_cannot_be_made_is_refused(trained: Bench) -> None:
    name = trained.run().name

    twice = trained("report", name, name, "--html", "page.html")
    nowhere = trained("report", name, "--html", "no/page.html")
    three = trained("report", name, name, name)
    misplaced = trained("report", "--html", name)

    partly = trained("report", name, "--scores", "--html", "page.html")

    assert {one.exit_code for one in (twice, nowhere, three, misplaced, partly)} == {2}
    assert "error: --html shows all; leave --scores, --published and --answers out" in partly.stderr
    assert f"error: --html: {name} does not end in .html" in misplaced.stderr
    assert "hint: name runs before --html" in misplaced.stderr
    assert "error: a run is named twice" in twice.stderr
    assert "error: there is no folder no" in nowhere.stderr
    assert "error: report compares two runs, not 3" in three.stderr


def test_the_programs_that_draw_are_those_of_npm() -> None:
    digests = {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest()[:16]
        for file in (render.FOLDER / "vendor").glob("*.js")
    }

    assert digests == {
        "vega.min.js": "8f6a3587cf8d4f42",
        "vega-lite.min.js": "35a9821df838825b",
        "vega-embed.min.js": "b1455caba2fb1a72",
    }


def test_the_error_without_jinja2_names_what_to_install() -> None:
    script = (
        "import sys; sys.modules['jinja2'] = None\n"
        "from meditron_cli.reporting.html_report.render import load; load()"
    )

    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )

    assert "ConfigError: the library jinja2 is not installed" in done.stderr


def test_energy_is_shown_with_how_it_is_known() -> None:
    usage = {
        "gpu_hours": 100.0, "kwh": 77.0, "kg_co2": 1.5, "price": 250.0, "gpu_energy_j": 252e6,
        "energy_source": "counter", "measured_attempts": 3, "gpu_attempts": 4, "pue": 1.1,
        "currency": "CHF",
    }  # fmt: skip

    found = list(summary.energy_rows({"usage": usage, "pretrain": {"tokens": 2_000_000_000}}))

    assert found == [
        ("energy of the GPUs", "70.00 kWh", "counters of the GPUs, in 3 of 4 attempts"),
        ("energy at the wall", "77.00 kWh", "at a PUE of 1.1"),
        ("emissions", "1.50 kg CO2", "by the grid factor of the profile"),
        ("cost", "250.00 CHF", "100.00 GPU-hours at the price of the profile"),
    ]
    unknown = dict.fromkeys(usage) | {"gpu_hours": 0.0}
    assert list(summary.energy_rows({"usage": unknown, "pretrain": {"tokens": None}})) == []
    whole = {**usage, "measured_attempts": 4}
    rows = summary.energy_rows({"usage": whole, "pretrain": {"tokens": 2_000_000_000}})
    assert ("energy of a billion tokens", "38.50 kWh", "of all stages, per pretraining's") in rows
