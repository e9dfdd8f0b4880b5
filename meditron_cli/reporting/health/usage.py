"""Energy, emissions and cost of a run: what its GPUs used, as the node monitors read it."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from jobs.contract.rundir import RunDir
from jobs.contract.units import JOULES_PER_KWH, Footprint
from jobs.health.monitor import records
from meditron_cli.errors import ConfigError
from meditron_cli.reporting.attempts import Attempt
from meditron_cli.reporting.run_times import RunTimes
from meditron_cli.runs import request
from meditron_cli.runs.record import RunRecord


@dataclass(frozen=True)
class Usage:
    """The energy and cost of a run so far."""

    footprint: Footprint
    joules: float | None
    """Of the GPUs; None where no attempt was measured."""
    source: str
    """``counter``, or ``power`` where it is power times time for some GPUs."""
    measured: int
    """Attempts on GPUs of which the energy is known."""
    attempts: int
    """Attempts on GPUs."""
    pue: float | None
    currency: str

    def to_json(self) -> dict[str, Any]:
        """Return the usage as ``--json`` prints it."""
        return {
            **asdict(self.footprint),
            "gpu_energy_j": self.joules,
            "energy_source": self.source or None,
            "measured_attempts": self.measured,
            "gpu_attempts": self.attempts,
            "pue": self.pue,
            "currency": self.currency or None,
        }

    @property
    def text(self) -> str | None:
        """Return the energy, emissions and cost in one line; None where none is known."""
        found = self.footprint
        parts = []
        if found.kwh is not None:
            how = "counters" if self.source == "counter" else "power over time"
            at = f" at a PUE of {self.pue:g}" if self.pue else ""
            some = (
                ""
                if self.measured == self.attempts
                else (f", in {self.measured} of {self.attempts} attempts")
            )
            parts.append(f"{found.kwh:,.2f} kWh{at} (the GPUs' {how}{some})")
        if found.kg_co2 is not None:
            parts.append(f"{found.kg_co2:,.2f} kg CO2")
        if found.price is not None:
            parts.append(f"{found.price:,.2f} {self.currency}".rstrip())
        return ", ".join(parts) or None


def of_run(run: RunDir, record: RunRecord, times: RunTimes) -> Usage:
    """Return the usage of all attempts of a run, those that still run included."""
    on_gpus = [
        attempt
        for attempt in times.attempts
        if (stage := record.stages.get(attempt.stage)) and stage.gpus_per_node
    ]
    energies = [(joules, source) for joules, source in map(_energy(run), on_gpus) if source]
    joules = sum(joules or 0.0 for joules, _ in energies) if energies else None
    accounting = accounting_of(run, record)
    kwh = None if joules is None else joules / JOULES_PER_KWH
    sources = {source for _, source in energies}
    return Usage(
        footprint=Footprint.of(times.gpu_hours, kwh, accounting),
        joules=joules,
        source="counter" if sources == {"counter"} else "power" if sources else "",
        measured=len(energies),
        attempts=len(on_gpus),
        pue=accounting.get("pue"),
        currency=accounting.get("currency") or "",
    )


def _energy(run: RunDir) -> Any:
    def energy(attempt: Attempt) -> tuple[float | None, str]:
        """Return joules and source of an attempt: from its record, or the reports while it runs."""
        if attempt.end is not None:
            return attempt.end.energy_j, attempt.end.energy_source
        folder = run.attempt(attempt.stage, attempt.number)
        return records.energy(records.read_reports(folder, attempt.index, attempt.nodes))

    return energy


def accounting_of(run: RunDir, record: RunRecord) -> Mapping[str, Any]:
    """Return the emissions and prices of the profile; none where ``run.json`` is damaged."""
    with contextlib.suppress(ConfigError):
        cluster = request.last_request(run, record.history)["cluster"]
        found: Mapping[str, Any] = cluster.get("accounting") or {}
        return found
    return {}
