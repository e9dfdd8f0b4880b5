"""The models of cluster profiles.

One field, one meaning, one unit in its name. The docstring under a field is its documentation: it
feeds ``meditron explain``, ``meditron schema`` and ``clusters/README.md``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from jobs.contract.outcomes import HEALTH_CODES
from meditron_cli.config.field_types import (
    DurationMinutes,
    Line,
    Name,
    SbatchOption,
    SbatchValue,
    VariableName,
    Word,
    WordOrEmpty,
    is_placeholder,
)
from meditron_cli.config.section import Section


class Reached(Section):
    """Speeds measured on the partition's nodes, which computed times use instead of shares of
    peaks; `meditron selftest` measures them and keeps them in the cache of the cluster."""

    product_tflops: PositiveFloat | None = None
    """Matrix products of one GPU, in TFLOP/s."""
    memory_gb_s: PositiveFloat | None = None
    """Memory of one GPU, in GB/s."""
    link_gb_s: PositiveFloat | None = None
    """One GPU to the others of its node, one direction, in GB/s."""
    network_gb_s: PositiveFloat | None = None
    """A node to the others, one direction, in GB/s."""


class Node(Section):
    """The shape of one node of a partition."""

    gpus: NonNegativeInt = 0
    """GPUs per node."""
    gpu_kind: str = ""
    """NVML's name of the GPU or a part of it, ``A100-SXM4-80GB``; checked before ranks start."""
    gpu_type: WordOrEmpty = ""
    """Typed gres name for sbatch, where the site requires one: ``a100``."""
    gpu_memory_gb: NonNegativeInt = 0
    """Memory of one GPU, in GiB."""
    peak_bf16_tflops: NonNegativeFloat = 0
    """Dense bf16 peak of one GPU, in TFLOP/s, for computed times."""
    gpu_memory_gb_s: NonNegativeFloat = 0
    """Bandwidth of one GPU's memory, in GB/s, for computed times."""
    gpu_link_gb_s: NonNegativeFloat = 0
    """One GPU to the others of its node, one direction, in GB/s, for computed times."""
    network_gb_s: NonNegativeFloat = 0
    """All network adapters of a node for traffic between GPUs, one direction, in GB/s (1 GB/s is 8
    Gb/s), for computed times."""
    reached: Reached = Reached()
    """Measured speeds, where there are any."""
    gpu_watts: NonNegativeFloat = 0
    """One GPU under load with its share of the node, in W, for computed energy."""
    cpus: PositiveInt
    """Cores of a node that jobs may use."""
    memory_gb: PositiveInt
    """RAM of a node that jobs may use, in GiB."""
    interconnect: str = ""
    """A description for people: ``Slingshot-11, 4 x 200 Gb/s``."""


class Partition(Section):
    """A Slurm partition; for the local scheduler, this machine."""

    name: Word
    """The partition's name; ``<…>`` marks a placeholder that submit refuses."""
    nodes: PositiveInt
    """Nodes a job may use."""
    node: Node
    """Shape of its nodes."""
    max_time_minutes: DurationMinutes | None = None
    """Longest job, as a duration; null when unlimited or not known."""
    account: WordOrEmpty = ""
    """Account for jobs in this partition; overrides the cluster's."""
    qos: WordOrEmpty = ""
    """QOS; overrides the cluster's."""
    grace_seconds: NonNegativeInt | None = None
    """Grace period (GraceTime): from a preemption's notice to the kill; null when not known."""
    request_memory: bool = True
    """Request memory explicitly (``--mem``); false where the site forbids it."""


class Container(Section):
    """The container ranks run in; the batch step stays outside."""

    kind: Literal["pyxis", "apptainer"]
    """pyxis (``srun --container-image``) or apptainer (``apptainer exec --nv``)."""
    image: Word
    """Path of the .sqsh or .sif file on shared storage."""
    mounts: tuple[Word, ...] = ()
    """``host:container`` pairs, beside the run directory and the inputs an experiment names."""
    python: Word = "python"
    """Interpreter inside the image."""

    def conflicts(self) -> Iterator[tuple[str, str]]:
        """Check that the image is absolute, as the batch step may start in any folder."""
        if not self.image.startswith("/") and not is_placeholder(self.image):
            yield "image", f"{self.image!r} is not an absolute path"


class StageEnvironment(Section):
    """The interpreter or the container of one stage's ranks, in the place of the cluster's."""

    python: WordOrEmpty = ""
    """Absolute interpreter on shared storage, without a container."""
    container: Container | None = None
    """Container for the ranks."""

    def conflicts(self) -> Iterator[tuple[str, str]]:
        """Check that there is one of the two, and that an interpreter is absolute."""
        if bool(self.python) == (self.container is not None):
            yield "python", "name either an interpreter or a container"
        elif self.python and not self.python.startswith("/") and not is_placeholder(self.python):
            yield "python", f"{self.python!r} is not an absolute path"


class StageEnvironments(Section):
    """The stages whose ranks have an environment of their own."""

    pretrain: StageEnvironment | None = None
    """Continued pretraining."""
    finetune: StageEnvironment | None = None
    """Finetuning, with the keys of ``pretrain``."""
    evaluate: StageEnvironment | None = None
    """Evaluation by likelihoods, with the keys of ``pretrain``."""
    generate: StageEnvironment | None = None
    """Generation, with the keys of ``pretrain``: vLLM pins a torch of its own."""
    judge: StageEnvironment | None = None
    """Judging, with the keys of ``pretrain``; default: that of ``generate``."""

    def named(self) -> Iterator[tuple[str, StageEnvironment]]:
        """Yield the stages that have one, and theirs."""
        for name in type(self).model_fields:
            if (environment := getattr(self, name)) is not None:
                yield name, environment


class Environment(Section):
    """The environment of a job's processes."""

    modules: tuple[Word, ...] = ()
    """Loaded in order (``module load``)."""
    python: WordOrEmpty = ""
    """Absolute interpreter on shared storage; default: the one that submits."""
    container: Container | None = None
    """Container for the ranks."""
    stages: StageEnvironments = StageEnvironments()
    """Stages whose ranks have another interpreter or container."""
    pass_through: tuple[VariableName, ...] = ()
    """Variables passed on from the submitting shell; no others are."""
    network_interface: WordOrEmpty = ""
    """Interface of each node on which ranks of several nodes meet (``hsn0``, ``ib0``): MASTER_ADDR,
    and the sockets of NCCL and gloo; default: the one that the host's name resolves to."""
    set: dict[VariableName, Line] = Field({})
    """Variables set in every job. Nothing secret: the batch script contains them."""
    secrets_file: Path | None = None
    """A 0600 file of NAME=value lines, read on the node by the process that needs it."""

    def conflicts(self) -> Iterator[tuple[str, str]]:
        """Check that the interpreter is absolute, as a job may start in any folder."""
        if self.python and not self.python.startswith("/") and not is_placeholder(self.python):
            yield "python", f"{self.python!r} is not an absolute path"


class Slurm(Section):
    """Slurm settings of the site."""

    max_array_size: PositiveInt = 1001
    """MaxArraySize of ``scontrol show config``; the highest index is one less."""
    recovery_job: bool = True
    """Queue a recovery job behind each stage, which resubmits tasks whose supervisor died."""
    submit_from_jobs: bool = True
    """Whether compute nodes may call sbatch; if not, `meditron recover` resumes runs."""
    requeue: bool = True
    """Whether Slurm may requeue a job (JobRequeue, ``scontrol requeue``)."""
    sbatch: dict[SbatchOption, SbatchValue] = Field({})
    """More sbatch options by long name: ``constraint``, ``reservation`` …"""
    srun: tuple[Word, ...] = ()
    """More srun arguments for the ranks: ``--cpu-bind=none`` …"""


class Accounting(Section):
    """Emissions and prices of the site."""

    pue: Annotated[float, Field(ge=1)] | None = None
    """Power usage effectiveness: energy of the data centre over that of its computers."""
    kg_co2_per_kwh: NonNegativeFloat | None = None
    """Emissions of the site's electricity, in kg CO2 equivalent per kWh."""
    price_per_gpu_hour: NonNegativeFloat | None = None
    """Price of one GPU for an hour."""
    currency: WordOrEmpty = ""
    """Of the price: ``CHF``."""


class Cluster(Section):
    """A cluster profile: facts about a site, and defaults for experiments run on it."""

    name: Name
    """The name for ``--cluster``."""
    description: str = ""
    """One line for ``meditron clusters``."""
    scheduler: Literal["slurm", "local"]
    """``slurm``, or ``local`` for processes on this machine."""
    device: Literal["cuda", "cpu"]
    """The device of the ranks: ``cuda`` or ``cpu``."""
    account: WordOrEmpty = ""
    """Default account."""
    qos: WordOrEmpty = ""
    """Default QOS."""
    gpu_partition: Partition
    """Where pretraining runs, and evaluation with device cuda."""
    cpu_partition: Partition | None = None
    """Where curation, tokenization and evaluation on CPUs run, with the keys of ``gpu_partition``;
    default: the GPU partition."""
    environment: Environment = Environment()
    """Modules, interpreter, container and variables of a job's processes."""
    accounting: Accounting = Accounting()
    """Emissions and prices, for what a plan computes of them."""
    runs_dir: Path | None = None
    """Default runs directory, on storage that all nodes see; without it, ``./runs``."""
    models_dir: Path | None = None
    """Folder of base models, as ``ORG/NAME`` or ``NAME``, on storage that all nodes see;
    `meditron fetch` downloads to it. A model that is not there is looked up in the hub's cache
    (``HF_HUB_CACHE``, else ``HF_HOME/hub``, else ``~/.cache/huggingface/hub``)."""
    data_dir: Path | None = None
    """Folder of files from data sets of the hub, as ``ORG/NAME/PATH``, on storage that all nodes
    see; `meditron fetch` downloads to it what an experiment names with ``hf://datasets/``."""
    scratch_dir: Path | None = None
    """Fast folder for temporary files, local to each node or shared; default: the node's own.
    Each attempt of a task has a folder of its own there (TMPDIR), removed at its end."""
    textfile_dir: Path | None = None
    """Folder that node_exporter's textfile collector reads on each node, and that users may write
    to: monitors of the nodes keep their readings there while a task runs."""
    slurm: Slurm = Slurm()
    """Slurm settings of the site."""
    health_skip: tuple[str, ...] = ()
    """Codes of health checks to skip: the column `check` of `meditron health`. `meditron check`
    lists all codes where one is wrong."""
    defaults: dict[str, Any] = Field({})
    """Experiment keys that this cluster presets; the experiment and ``--set`` override them."""

    def conflicts(self) -> Iterator[tuple[str, str]]:
        """Check GPUs against the device, the container and modules against the scheduler, and the
        codes of health checks.
        """
        known = ", ".join(HEALTH_CODES)
        for code in sorted({*self.health_skip} - {*HEALTH_CODES}):
            yield "health_skip", f"unknown code {code!r}; known are {known}"
        if self.device == "cuda" and self.gpu_partition.node.gpus == 0:
            yield "gpu_partition.node.gpus", "device is cuda, but the nodes have no GPUs"
        containers = {"environment.container": self.environment.container} | {
            f"environment.stages.{name}.container": own.container
            for name, own in self.environment.stages.named()
        }
        for key, container in containers.items():
            if self.scheduler == "local" and container and container.kind == "pyxis":
                yield f"{key}.kind", "pyxis needs Slurm, and scheduler is local"
        if self.scheduler == "local" and self.environment.modules:
            yield (
                "environment.modules",
                "modules are loaded in Slurm's batch script, and scheduler is local; load them in "
                "the shell and name their variables in environment.pass_through",
            )
