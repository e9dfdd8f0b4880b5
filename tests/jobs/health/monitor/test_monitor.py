"""The monitor of a node as the supervisor starts it, through the real nvidia-ml-py."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from jobs.contract import rundir, specs
from jobs.contract.files import write_json
from jobs.health.findings import Expected
from jobs.health.monitor import records
from jobs.health.monitor.__main__ import Monitor
from jobs.health.monitor.node_reader import NodeReader, StuckProbe
from jobs.health.monitor.xid_rules import MOST_EVENTS
from jobs.health.sample import Sample
from jobs.health.xid import XID, XidAction

from ....corpus_specs import curate_spec
from ....disks import fill, mounted
from ....fake_nvml import build, environment, write_readings
from ....ranks import PATIENCE, wait_until
from ....task_specs import task_spec

REPOSITORY = Path(__file__).parents[4]
OF_HOST = ("load", "memory", "network_errors", "network_flap", "oom_kill", "shm", "swap")
"""Codes of findings about the machine that runs the tests."""
WARNED = (XidAction.REPORT, XidAction.RETRY, XidAction.CONFIRM)


class Node:
    """A node called node07 with a monitor of attempt 1."""

    def __init__(self, library: Path, folder: Path) -> None:
        self.run = rundir.RunDir(folder / "run")
        self.folder = self.run.attempt("curate", 1)
        self.folder.mkdir(parents=True)
        self.readings = folder / "readings"
        self.library = library
        self.errors = folder.parent / f"{folder.name}.log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(
        self,
        readings: Mapping[str, object],
        *options: str,
        program: tuple[str, str] = ("-m", "jobs.health.monitor"),
        **health: Any,
    ) -> None:
        """Start the monitor, which samples some five times a second."""
        site = specs.SiteSpec(textfile_dir=health.pop("textfile_dir", ""))
        task = task_spec("curate", curate_spec(), health={"skip": OF_HOST, **health}, site=site)
        write_json(self.run.spec("curate", 0), specs.to_json(task))
        write_readings(self.readings, readings)
        names = [str(self.run.root), "curate", "0", "1", "--interval", "0.2", *options]
        with self.errors.open("w") as errors:
            self.process = subprocess.Popen(
                [sys.executable, *program, *names],
                cwd=REPOSITORY,
                env={
                    **environment(self.library, self.readings),
                    "SLURMD_NODENAME": "node07",
                    "SLURM_JOB_ID": "4187",
                },
                stderr=errors,
                umask=0o077,
            )

    def report(self) -> dict[str, Any]:
        """Return the newest report; empty before the first."""
        found = records.read_reports(self.folder, 0, ["node07"])
        return found[0] if found else {}

    def wait(self, is_true: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
        """Wait until the report fulfils a condition, and return it."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            report = self.report()
            if report and is_true(report):
                return report
            time.sleep(0.05)
        raise AssertionError(f"not within {PATIENCE:.0f} s; last report: {json.dumps(report)}")

    def stop(self) -> str:
        """End the monitor as the supervisor does; return its log."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(PATIENCE) == 0, self.log()
        return self.log()

    def log(self) -> str:
        """Return what the monitor has logged so far."""
        return self.errors.read_text()

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def node(library: Path, tmp_path: Path) -> Iterator[Node]:
    node = Node(library, tmp_path)
    yield node
    node.close()


def codes(report: Mapping[str, Any]) -> set[tuple[str, str, int | None]]:
    return {(item["verdict"], item["code"], item["subject"]["gpu"]) for item in report["findings"]}


def test_errors_of_links_are_the_sum_of_each_link_where_a_card_counts_so(node: Node) -> None:
    """The card has as many links as the library asks for."""
    counts = {f"gpu.field.{field}": n for n, field in enumerate((161, 162, 163), 1)}
    supported = {f"gpu.field.{field}.error": 0 for field in (161, 162, 163)}
    totals = {f"gpu.field.{field}": 900 for field in (52, 59, 38, 45)}

    node.start({"count": 1, **counts, **supported, **totals})

    node.wait(lambda report: report["samples"] >= 1)
    node.stop()
    first = next(iter(records.read_samples(node.folder, 0, "node07")))
    named = dict(zip((*records.GPU_FIELDS, "memory_used"), first["gpus"][0], strict=True))
    assert named["link_errors"] == [36, 72, 108]


@pytest.mark.parametrize(
    ("driver", "field"),
    [("570.133.20", 269), ("575.57.08", 251), ("580.65.06", 251), ("580.82.07", 269), ("r", 269)],
)
def test_the_fields_of_slow_time_are_those_of_the_driver(
    node: Node, driver: str, field: int
) -> None:
    other = {251: 269, 269: 251}[field]
    values = {field + n: 7 + n for n in range(3)} | {other + n: 1 for n in range(3)}
    fields = {f"gpu.field.{number}": value for number, value in values.items()}

    node.start({"count": 1, "driver": driver, "gpu.field.74": 6, **fields})

    node.wait(lambda report: report["samples"] >= 1)
    node.stop()
    first = next(iter(records.read_samples(node.folder, 0, "node07")))
    named = dict(zip((*records.GPU_FIELDS, "memory_used"), first["gpus"][0], strict=True))
    assert named["slow_time"] == [6, 7, 8, 9]


def test_every_reading_reaches_the_report_and_the_samples(node: Node) -> None:
    node.start(
        {
            "count": 2,
            "gpu.1.utilisation": 97,
            "gpu.1.power": 312500,
            "gpu.1.energy": 5_000_000,
            "gpu.1.temperature": 61,
            "gpu.1.field.82": 77,
            "gpu.1.clock.sm": 1290,
            "gpu.1.clocks": 0x4,
            "gpu.1.pcie.replays": 7,
            "gpu.1.ecc.corrected": 12,
            "gpu.1.memory.used": 42 << 30,
            "gpu.1.clock.memory": 1215,
            **{f"gpu.1.field.{field}": n for n, field in enumerate((74, 269, 270, 271), 1)},
            **{f"gpu.1.field.{field}": n for n, field in enumerate((52, 59, 38, 45), 5)},
            "gpu.1.field.180": 2,
            "gpu.1.pcie.generation": 3,
            "gpu.1.field.214": 1,
            "gpu.1.remap.corrected": 3,
            "gpu.1.remap.pending": 1,
        }
    )
    node.wait(lambda report: report["samples"] >= 2)
    write_readings(node.readings, {"count": 2, "gpu.1.energy": 9_000_000})
    report = node.wait(lambda report: report["gpus"][1]["energy_j"] > 0)
    log = node.stop()

    assert (report["node"], report["findings"], log) == ("node07", [], "")
    gpu = report["gpus"][1]
    assert (gpu["index"], gpu["name"]) == (1, "NVIDIA A100-SXM4-80GB")
    assert (gpu["energy_j"], gpu["energy_source"]) == (4000.0, "counter")
    assert gpu["temperature"]["max"] == 61
    assert gpu["power_w"]["min"] == 312.5
    assert records.energy([report]) == (4000.0, "counter")
    assert report["peak_bytes"] < 60 << 20
    first = next(iter(records.read_samples(node.folder, 0, "node07")))
    named = dict(zip((*records.GPU_FIELDS, "memory_used"), first["gpus"][1], strict=True))
    assert named == {
        "index": 1,
        "utilisation": 97,
        "power": 312500,
        "energy": 5_000_000,
        "temperature": 61,
        "memory_temperature": 77,
        "sm_clock": 1290,
        "memory_clock": 1215,
        "clock_reasons": 4,
        "slow_time": [1, 2, 3, 4],
        "pcie_width": 16,
        "pcie_generation": 3,
        "pcie_replays": 7,
        "pcie_fatal": 2,
        "link_errors": [5, 6, 15],
        "link_failures": 36,
        "ecc_volatile": 0,
        "ecc_corrected": 12,
        "remapped_rows": [3, 0, True, False],
        "memory_used": 42 << 30,
    }
    assert min(first[name] for name in ("memory_available", "shm_free", "disk_free")) > 0
    assert {"swap_used", "load", "oom_kills", "ports", "ranks", "xids"} < first.keys()


def test_every_class_of_xid_arrives_as_an_event_of_its_gpu(node: Node) -> None:
    numbers = sorted(XID)
    node.start({"count": 4})
    node.wait(lambda report: report["samples"])
    write_readings(
        node.readings,
        {"count": 4, **{f"event.{n}": f"{n % 4} {xid}" for n, xid in enumerate(numbers)}},
    )
    expected = {
        (number, n % 4): "WARN" if XID[number] in WARNED else "FATAL"
        for n, number in enumerate(numbers)
        if XID[number] is not XidAction.IGNORE
    }

    report = node.wait(lambda report: len(report["findings"]) == len(expected))
    log = node.stop()

    assert {
        (item["evidence"]["xid"], item["subject"]["gpu"]): item["verdict"]
        for item in report["findings"]
    } == expected
    gpu = numbers.index(79) % 4
    assert f"FATAL node07 GPU {gpu}: xid: XID 79: the GPU has fallen off the bus\n" in log


def test_a_gpu_that_falls_off_the_bus_is_fatal_at_once(node: Node) -> None:
    node.start({"count": 4}, gpus=4)
    node.wait(lambda report: report["samples"])

    write_readings(node.readings, {"count": 4, "gpu.2.error": 15, "event.0": "2 79"})

    report = node.wait(lambda report: ("FATAL", "gpu_lost", 2) in codes(report))
    assert "off the bus" in report["findings"][0]["message"]
    uuids = {item["subject"]["uuid"] for item in report["findings"] if item["code"] == "gpu_lost"}
    assert uuids == {"GPU-00000002-0000-0000-0000-000000000000"} == {report["gpus"][2]["uuid"]}
    node.wait(lambda report: ("FATAL", "xid", 2) in codes(report))


def test_gpus_of_other_tasks_are_neither_read_nor_heard(node: Node) -> None:
    others = {"gpu.3.error": 15, "gpu.2.temperature": 99, "event.0": "3 79", "event.1": "2 79"}
    node.start({"count": 4, **others}, gpus=2)
    node.wait(lambda report: report["samples"])

    write_readings(node.readings, {"count": 4, "event.2": "1 13", **others})

    report = node.wait(lambda report: report["findings"])
    assert codes(report) == {("WARN", "xid", 1)}
    assert [gpu["index"] for gpu in report["gpus"]] == [0, 1]


def test_a_task_without_gpus_reads_and_hears_none(node: Node) -> None:
    node.start({"count": 4, "gpu.error": 15, "event.0": "0 79"}, gpus=0)

    report = node.wait(lambda report: report["samples"] >= 5)

    assert (report["gpus"], report["findings"], report["energy_j"]) == ([], [], 0)


def test_a_probe_that_hangs_is_a_finding_and_blocks_no_other(node: Node) -> None:
    hangs = {"count": 2, "gpu.1.hang.nvmlDeviceGetPowerUsage": 3600}
    node.start(hangs, "--probe", "0.5")

    sentence = "power of GPU 1 has not returned for"
    report = node.wait(
        lambda report: report["samples"] >= 3 and sentence in json.dumps(report["findings"])
    )
    node.stop()

    assert ("WARN", "probe_stuck", 1) in codes(report)
    samples = list(records.read_samples(node.folder, 0, "node07"))
    powers = [[gpu[2] for gpu in sample["gpus"]] for sample in samples]
    assert [350000, None] in powers  # not in all: a busy machine may delay the other, too


def test_metrics_for_node_exporter_stand_while_the_monitor_runs(node: Node, tmp_path: Path) -> None:
    """They are those of a run, a task and a job: several may share a node, and a name."""
    path = tmp_path / "meditron-run-curate-0-4187.prom"
    node.start({"count": 1}, textfile_dir=str(tmp_path))
    node.wait(lambda report: report["samples"] >= 2)
    text, mode = path.read_text(), path.stat().st_mode
    node.stop()

    assert 'meditron_gpu_power_watts{attempt="1",gpu="GPU-00000000-' in text
    assert mode & 0o777 == 0o644
    assert not list(tmp_path.glob("*.prom*"))


def test_metrics_of_monitors_that_were_killed_are_removed_by_the_next(
    node: Node, tmp_path: Path
) -> None:
    names = ("meditron-old-pretrain-0-7.prom", ".meditron-old-pretrain-0-7.prom.part", "dcgm.prom")
    for name in (*names, "meditron-new-pretrain-0-8.prom"):
        (tmp_path / name).write_text("")
    for name in names:
        os.utime(tmp_path / name, (0, 0))

    node.start({"count": 1}, textfile_dir=str(tmp_path))
    node.wait(lambda report: report["samples"])

    left = {path.name for path in tmp_path.iterdir()} & {*names, "meditron-new-pretrain-0-8.prom"}
    assert left == {"dcgm.prom", "meditron-new-pretrain-0-8.prom"}


def test_a_folder_for_metrics_that_cannot_be_written_is_logged_once(
    node: Node, tmp_path: Path
) -> None:
    node.start({"count": 1}, textfile_dir=str(tmp_path / "missing"))
    node.wait(lambda report: report["samples"] >= 3)

    log = node.stop()

    assert log == "the node's metrics could not be written: No such file or directory\n"


def test_a_full_disk_of_the_run_leaves_the_metrics_and_is_logged_once(
    library: Path, tmp_path: Path
) -> None:
    (tmp_path / "metrics").mkdir()
    with mounted(tmp_path / "disk", "256k") as disk, closing(Node(library, disk)) as node:
        node.start({"count": 1}, textfile_dir=str(tmp_path / "metrics"))
        node.wait(lambda report: report["samples"])
        ballast, path = fill(disk), tmp_path / "metrics/meditron-run-curate-0-4187.prom"
        wait_until(lambda: "health could not" in node.log() and path.exists())
        before = path.stat().st_mtime_ns
        wait_until(lambda: path.stat().st_mtime_ns > before)
        ballast.unlink()
        samples = node.report()["samples"]
        node.wait(lambda report: report["samples"] > samples)
        log = node.stop()
        lines = list(records.read_samples(node.folder, 0, "node07"))

    assert log.count("the node's health could not be written: No space left on device") == 1
    assert lines[-1]["gpus"]


def test_a_storm_of_one_xid_is_counted_up_to_a_limit(node: Node) -> None:
    storm = {f"event.{number}": "0 31" for number in range(3 * MOST_EVENTS)}
    node.start({"count": 1, **storm})

    report = node.wait(
        lambda report: report["findings"] and report["now"][0]["evidence"]["times"] == MOST_EVENTS
    )

    assert report["now"][0]["message"].endswith("100 times or more")
    node.stop()
    samples = records.read_samples(node.folder, 0, "node07")
    assert sum(len(sample["xids"]) for sample in samples) == MOST_EVENTS


def test_a_driver_that_starts_later_is_read_then(node: Node) -> None:
    node.start({"count": 1, "init": 999})
    node.wait(lambda report: report["samples"])

    write_readings(node.readings, {"count": 1})

    node.wait(lambda report: report["gpus"])


def test_a_node_without_gpus_is_monitored_too(node: Node, tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "libnvidia-ml.so.1").write_text("no library\n")
    node.library = tmp_path / "none"
    node.start({})

    report = node.wait(lambda report: report["samples"] >= 2)

    assert (report["gpus"], report["findings"], report["energy_j"]) == ([], [], 0)


class BrokenReader(NodeReader):
    """The reader of a node that has no thread left for the first two samples."""

    def __init__(self, folder: Path, stop: threading.Event) -> None:
        super().__init__(folder, {"SLURMD_NODENAME": "node07"})
        self.stop, self.reads = stop, 0

    def read(self) -> tuple[Sample, tuple[StuckProbe, ...]]:
        self.reads += 1
        if self.reads <= 2:
            raise RuntimeError("can't start new thread")
        self.stop.set()
        return super().read()


def test_a_sample_that_fails_is_logged_once_and_not_the_last(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURMD_NODENAME", "node07")
    run, stop = rundir.RunDir(tmp_path), threading.Event()
    task = task_spec("curate", curate_spec())
    write_json(run.spec("curate", 0), specs.to_json(task))
    folder = run.attempt("curate", 1)
    folder.mkdir(parents=True)
    reader = BrokenReader(folder, stop)

    Monitor(run, "curate", 0, 1, Expected(), reader).watch(stop, 0.0)

    assert [report["samples"] for report in records.read_reports(folder, 0, ["node07"])] == [1]
    assert capsys.readouterr().err.count("no sample was taken: RuntimeError") == 1


def test_the_samples_are_bounded(tmp_path: Path) -> None:
    log = records.SampleLog(records.log_path(tmp_path, 0, "node07"), limit=1000)

    for number in range(200):
        log.append({"format": 3, "number": number})

    kept = [line["number"] for line in records.read_samples(tmp_path, 0, "node07")]
    assert kept == list(range(kept[0], 200))
    assert 30 < len(kept) < 100
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 2000


def test_a_truncated_report_or_line_is_skipped(tmp_path: Path) -> None:
    records.report_path(tmp_path, 0, "node07").write_text('{"format": 3, "no')
    records.log_path(tmp_path, 0, "node07").write_text('{"format": 3, "time": 1}\n{"form')

    assert records.read_reports(tmp_path, 0, ["node07", "node08"]) == []
    assert list(records.read_samples(tmp_path, 0, "node07")) == [{"format": 3, "time": 1}]


def test_a_monitor_whose_attempt_is_gone_ends(node: Node) -> None:
    node.start({"count": 1})
    node.wait(lambda report: report["samples"])

    os.rename(node.run.root, node.run.root.with_name("moved"))

    assert node.process is not None
    assert node.process.wait(PATIENCE) == 0
    assert not node.run.root.exists()


STOPPED = """
import os, signal, sys, threading
from jobs.health.monitor.__main__ import main

def interrupt(frame, event, called):
    if event == "call" and frame.f_code is threading.Condition.wait.__code__:
        if frame.f_back.f_back.f_code.co_name == "watch":
            sys.setprofile(None)
            os.kill(os.getpid(), signal.SIGTERM)

sys.setprofile(interrupt)
os._exit(main())
"""
"""A monitor that is stopped in its first pause, while it has the lock of an event."""


def test_a_stop_request_within_a_pause_ends_the_monitor(node: Node) -> None:
    node.start({"count": 1}, program=("-c", STOPPED))

    assert node.process is not None
    assert node.process.wait(PATIENCE) == 0, node.log()
    assert node.report()["samples"] >= 1


SLOW_TO_LISTEN = """
import os, threading, time
from jobs.health.monitor.__main__ import main

def wait(frame, event, called):
    if event == "call" and frame.f_code.co_name == "_put":
        time.sleep(0.8)

threading.setprofile(wait)
os._exit(main())
"""
"""A monitor whose thread that listens for events comes late."""


def test_an_error_that_just_arrives_at_the_end_is_in_the_last_report(node: Node) -> None:
    node.start({"count": 1}, program=("-c", SLOW_TO_LISTEN))
    node.wait(lambda report: report["gpus"])

    write_readings(node.readings, {"count": 1, "event.0": "0 79"})
    node.stop()

    assert codes(node.report()) == {("FATAL", "xid", 0)}


def test_a_monitor_that_was_suspended_continues(node: Node) -> None:
    """As Slurm suspends a job, for longer than a pause of the monitor."""
    node.start({"count": 1})
    before = node.wait(lambda report: report["samples"])["samples"]

    assert node.process is not None
    for number in (signal.SIGSTOP, signal.SIGCONT):
        node.process.send_signal(number)
        time.sleep(0.6)

    node.wait(lambda report: report["samples"] > before + 2)
