"""Task specs as JSON, written by the login node, read on nodes. Standard library only.

Paths in a spec are relative to the run directory for files in it, and absolute otherwise, so that
the same plan gives the same bytes in every runs directory.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import typing
from dataclasses import dataclass
from typing import Any, TypeVar

from jobs.contract import rundir
from jobs.contract.errors import RESUME, TaskError
from jobs.contract.files import FORMAT, FormatError, read_json
from jobs.contract.stage_specs import (
    ASIDE,
    STAGE_KINDS,
    TRAINING_STAGES,
    PretrainSpec,
    Spec,
    TrainingSpec,
)

DIGEST_FORMAT = 1
"""Part of every digest: another number makes all specs differ from those of earlier runs."""


@dataclass(frozen=True)
class SupervisionSpec:
    """Heartbeat timeouts, retry budget and backoff of a task."""

    attempts_without_progress: int = 3
    """Attempts in a row without a newer checkpoint after which the run stops."""
    restarts_in_allocation: int = 2
    """Starts of the ranks in one allocation, after the first."""
    startup_limit_seconds: int = 1200
    """From the start of the ranks to the first step, reading a checkpoint included."""
    step_limit_seconds: int = 120
    """Heartbeat timeout of a step, or five times the slowest of a hundred if that is longer."""
    retry_delay_seconds: int = 30
    """Before the second start after a failure; doubled each time, 15 minutes at most."""
    storage_delay_seconds: int = 600
    """The same after a full or failing disk; an hour at most."""


RUN = "{run}"
"""Placeholder for the run directory in a task's commands."""


@dataclass(frozen=True)
class SiteSpec:
    """The cluster's settings that a task's supervisor uses."""

    cluster: str = ""
    """Name of the cluster profile and of its node ledger; empty for no ledger."""
    requeue: bool = True
    """Slurm may requeue a job."""
    submit_from_jobs: bool = True
    """Compute nodes may call sbatch."""
    network_interface: str = ""
    """Of each node, on which ranks of several nodes meet; empty: that of the host's name."""
    textfile_dir: str = ""
    """Folder of each node for metrics of its monitor; empty for none."""


@dataclass(frozen=True)
class TaskSpec:
    """The content of ``stages/<stage>/spec/<task>.json``."""

    stage: str
    index: int
    spec: Spec
    ranks: int
    """Total processes; 1 except for pretraining and large evaluations."""
    ranks_per_node: int
    nodes: int
    gpus_per_node: int
    """0 on a CPU partition."""
    cpus_per_rank: int
    launcher: str
    """``srun`` or ``local``."""
    python: tuple[str, ...]
    """Command that starts Python for a rank: an interpreter, or a container call that ends in
    one.
    """
    srun_args: tuple[str, ...]
    """Extra srun arguments (container image, CPU binding); empty with the local launcher."""
    secrets_file: str
    """Absolute path of a 0600 file of NAME=value lines, read by the rank's parent; empty for
    none.
    """
    health: dict[str, Any]
    """Expectations of the preflight check: ``gpus``, ``gpu_kind``, ``min_shm_gb_per_gpu``,
    ``memory_gb``, ``min_free_gb``, ``skip``.
    """
    scratch_dir: str = ""
    """Absolute path in which each attempt gets a temporary folder on its nodes; empty for none."""
    peak_tflops: float = 0.0
    """Dense bf16 peak of one GPU, in TFLOP/s, of which utilisation is a share; 0 where the profile
    has none, and without GPUs."""
    leave_seconds: int = 0
    """Time for its ranks to save and exit, if longer than the supervisor's own."""
    supervision: SupervisionSpec = SupervisionSpec()
    site: SiteSpec = SiteSpec()

    @property
    def training(self) -> TrainingSpec | None:
        """Return the training's settings; None for a task of a stage that does not train."""
        if self.stage not in TRAINING_STAGES:
            return None
        return typing.cast(TrainingSpec, self.spec)

    @property
    def pretraining(self) -> PretrainSpec | None:
        """Return the settings of a training on corpora; None for a task of another kind."""
        return self.spec if isinstance(self.spec, PretrainSpec) else None


T = TypeVar("T")


def to_json(value: Any) -> dict[str, Any]:
    """Return a spec as plain JSON values, with ``format`` beside its fields."""
    return {"format": FORMAT, **json.loads(json.dumps(dataclasses.asdict(value)))}


def task_from_json(data: dict[str, Any]) -> TaskSpec:
    """Build a task spec from the result of ``to_json``.

    Raises:
        ValueError: another format, an unknown stage, or a missing or unknown field.
    """
    if data.get("format") != FORMAT:
        raise ValueError(
            f"task spec has format {data.get('format')!r}, this program reads {FORMAT}"
        )
    if data.get("stage") not in STAGE_KINDS:
        raise ValueError(f"task spec names the unknown stage {data.get('stage')!r}")
    body = {key: value for key, value in data.items() if key != "format"}
    spec = _build(STAGE_KINDS[data["stage"]].spec, body.pop("spec", {}))
    return _build(TaskSpec, {**body, "spec": spec})


def digest(value: Any) -> str:
    """Return the SHA-256 (hex) of a spec's canonical JSON; equal specs have equal digests, and so
    have those that differ only in what does not count.
    """
    data = value
    if dataclasses.is_dataclass(value):
        aside = {field.name for field in dataclasses.fields(value) if ASIDE in field.metadata}
        data = {name: item for name, item in to_json(value).items() if name not in aside}
        data["format"] = DIGEST_FORMAT
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def _build(kind: type[T], data: dict[str, Any]) -> T:
    hints = _hints(kind)
    names = {field.name for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    if set(data) != names:
        wrong = ", ".join(sorted(set(data) ^ names))
        raise ValueError(f"{kind.__name__}: missing or unknown fields: {wrong}")
    return kind(**{name: _convert(hints[name], data[name]) for name in names})


_known_hints: dict[type[Any], dict[str, Any]] = {}


def _hints(kind: type[Any]) -> dict[str, Any]:
    if kind not in _known_hints:
        _known_hints[kind] = typing.get_type_hints(kind)
    return _known_hints[kind]


def _convert(hint: Any, value: Any) -> Any:
    if isinstance(value, dict):
        for kind in (hint, *typing.get_args(hint)):  # ``Kind`` or ``Kind | None``
            if dataclasses.is_dataclass(kind):
                return _build(typing.cast(type[Any], kind), value)
    if typing.get_origin(hint) is tuple and isinstance(value, list):
        return tuple(_convert(typing.get_args(hint)[0], item) for item in value)
    return value


def load_task(run: rundir.RunDir, stage: str, index: int) -> TaskSpec:
    """Read the spec of one task.

    Raises:
        TaskError: the spec is missing, unreadable, damaged or of another format.
    """
    path = run.spec(stage, index)
    try:
        return task_from_json(read_json(path))
    except OSError as error:
        hint = "is this the run directory, and does this node see it?"
        raise TaskError(f"{path}: {error.strerror}", hint) from error
    except FormatError as error:
        raise TaskError(str(error), f"{RESUME} writes it again") from error
    except ValueError as error:
        raise TaskError(f"{path}: {error}", f"{RESUME} writes it again") from error


def indices(run: rundir.RunDir, stage: str) -> list[int]:
    """Return the indices of the tasks that have a spec, in order."""
    names = (path.stem for path in run.spec(stage, 0).parent.glob("*.json"))
    return sorted(int(name) for name in names if name.isdigit())


def read_task(run: rundir.RunDir, stage: str, index: int) -> TaskSpec | None:
    """Return the spec of one task; None where it cannot be read."""
    try:
        return load_task(run, stage, index)
    except TaskError:
        return None
