"""Energy, cost and alarms of a run, as `status` and `report` show them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobs.contract.attempt_history import read
from jobs.contract.events import append_event
from meditron_cli.reporting.health import alarms

from ....conftest import Bench
from ....monitor_reports import write_report
from ...task_records import TaskRecords, interrupt_once

KWH = 3.6e6


def change(path: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    value = json.loads(path.read_text())
    edit(value)
    path.write_text(json.dumps(value))


@pytest.fixture
def on_gpus(meditron: Bench, finish: Callable[..., None]) -> TaskRecords:
    """Return a pretraining on two nodes with four GPUs each, whose second attempt runs."""
    meditron.submit()
    run = meditron.run()
    for stage, indices in (("curate", (0,)), ("tokenize", (0, 1, 2)), ("index", (0,))):
        finish(run, stage, *indices)

    def give_gpus(plan: dict[str, Any]) -> None:
        plan["stages"]["pretrain"]["resources"] |= {"gpus_per_node": 4, "nodes": 2}

    change(run.plan, give_gpus)
    accounting = {"pue": 1.1, "kg_co2_per_kwh": 0.1, "price_per_gpu_hour": 2.0, "currency": "CHF"}
    change(run.record, lambda record: record["cluster"].update(accounting=accounting))
    return interrupt_once(run)


def usage(bench: Bench, command: str = "status") -> dict[str, Any]:
    answer = json.loads(bench(command, bench.run().name, "--json").stdout)
    found = answer["runs"][0] if command == "status" else answer
    return dict(found["usage"])


def report(run: Any, attempt: int, node: str, joules: float) -> None:
    folder = run.attempt("pretrain", attempt)
    write_report(folder, node, gpus=[{"index": 0}], energy_j=joules)


def test_energy_is_that_of_the_records_and_of_running_monitors(
    meditron: Bench, on_gpus: TaskRecords
) -> None:
    run = meditron.run()
    on_gpus.exit(2, 280, "preempted", "requeue", energy_j=2 * KWH, energy_source="power")
    on_gpus.start(3, 300, restarts=2, step=8)
    report(run, 3, "node1", 0.5 * KWH)
    report(run, 3, "node2", 0.5 * KWH)

    found = usage(meditron)

    assert found["gpu_energy_j"] == 3 * KWH
    assert found["kwh"] == pytest.approx(3.3)
    assert found["kg_co2"] == pytest.approx(0.33)
    assert found["price"] == pytest.approx(2 * found["gpu_hours"])
    assert (found["energy_source"], found["currency"]) == ("power", "CHF")
    assert (found["measured_attempts"], found["gpu_attempts"]) == (2, 3)
    assert usage(meditron, "report")["kwh"] == found["kwh"]
    text = meditron("status", run.name).stdout
    assert (
        "energy and cost: 3.30 kWh at a PUE of 1.1 (the GPUs' power over time, in 2 of 3 "
        "attempts), 0.33 kg CO2, "
    ) in text


def test_a_run_without_health_data_has_its_cost_alone(
    meditron: Bench, on_gpus: TaskRecords
) -> None:
    found = usage(meditron)

    assert (found["gpu_energy_j"], found["kwh"], found["kg_co2"]) == (None, None, None)
    assert (found["measured_attempts"], found["gpu_attempts"]) == (0, 2)
    lines = meditron("status", meditron.run().name).stdout.splitlines()
    (line,) = (line for line in lines if line.startswith("energy and cost"))
    assert line == f"energy and cost: {found['price']:,.2f} CHF"


def test_a_run_on_processors_has_neither(meditron: Bench) -> None:
    meditron.submit()

    assert "energy and cost" not in meditron("status", meditron.run().name).stdout
    assert usage(meditron)["gpu_attempts"] == 0


def alarm(run: Any, code: str, message: str, **fields: Any) -> None:
    values = {"stage": "pretrain", "index": 0, "attempt": 1, "verdict": "WARN", "node": ""}
    append_event(run, "alarm", **{**values, "code": code, "message": message, **fields})


def test_the_newest_alarm_of_each_kind_and_node_is_shown(meditron: Bench) -> None:
    meditron.submit()
    run = meditron.run()
    alarm(run, "throttle", "the first", node="gpu01")
    alarm(run, "goodput", "only 50% of the last hour")
    alarm(run, "throttle", "the second", node="gpu01", verdict="DRAIN")
    append_event(run, "alarm", code="cut short")

    text = meditron("status", run.name).stdout
    found = json.loads(meditron("status", run.name, "--json").stdout)["runs"][0]["alarms"]

    assert [item["message"] for item in found] == [
        "the first", "only 50% of the last hour", "the second",
    ]  # fmt: skip
    rows = [" ".join(row.split()) for row in text.partition("\nalarms\n")[2].splitlines()]
    assert "the first" not in text
    assert rows[1].endswith("WARN goodput pretrain attempt 1 only 50% of the last hour")
    assert rows[2].endswith("DRAIN throttle gpu01 the second")


def test_at_most_ten_alarms_are_shown(meditron: Bench) -> None:
    meditron.submit()
    run = meditron.run()
    for number in range(30):
        alarm(run, "throttle", "slow", node=f"gpu{number:02d}")

    shown = alarms.newest(read(run).alarms)

    assert [item.node for item in shown] == [f"gpu{number}" for number in range(20, 30)]
