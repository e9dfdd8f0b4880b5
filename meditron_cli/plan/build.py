"""Build a plan from an experiment and a cluster. Pure: equal inputs give equal plans."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Sequence
from dataclasses import replace

from jobs.contract.notification import NotifySettings, NotifyTarget
from jobs.contract.stage_specs import (
    FINETUNE,
    JUDGE,
    PREPARE,
    PRETRAIN,
    SELFTEST,
    STAGE_KINDS,
    STAGES,
)
from meditron_cli.errors import ConfigError
from meditron_cli.plan import corpus, fit, layout, memory
from meditron_cli.plan.evaluation import judging
from meditron_cli.plan.finetuning import stages as finetuning
from meditron_cli.plan.inputs import Inputs, pretrain_spec
from meditron_cli.plan.model import Plan, Resources, SiteSettings, StagePlan
from meditron_cli.plan.spec_parts import batch_of, model_spec, models_of, parallel_spec
from meditron_cli.plan.stage_plan import (
    SHORT_LEAD,
    named_paths,
    section_name,
    section_of,
    signal_lead,
    site_names,
)
from meditron_cli.plan.stages import stage_of

RECOVERY_JOB_MINUTES = 10
"""For one recovery pass, and for waiting until Slurm responds."""

HINT_LAYOUT = (
    "`meditron explain parallel` lists the keys of the layout; --set parallel.KEY=VALUE changes it"
)


def build(inputs: Inputs, stages: Sequence[str]) -> Plan:
    """Plan the stages of an experiment on a cluster.

    Raises:
        ConfigError: the layout does not divide or does not fit the cluster; all reasons, one a
        line.
    """
    result = findings(inputs, stages)
    if result.errors:
        raise ConfigError("\n".join(result.errors), hint="\n".join(hints(inputs, stages)))
    return Plan(
        name=inputs.experiment.name,
        size=inputs.size,
        stages=tuple(
            with_planned(stage_of(inputs, stage), stages) for stage in STAGES if stage in stages
        ),
        site=site_settings(inputs),
        warnings=result.warnings,
        lead=inputs.training_lead if PRETRAIN in stages else None,
        notify=notify_settings(inputs),
        weights_folder=inputs.weights_folder,
    )


def notify_settings(inputs: Inputs) -> NotifySettings:
    """Return the receivers of the run's notifications, and where their addresses are."""
    receivers = (NotifyTarget(item.to, item.events) for item in inputs.experiment.notify)
    file = inputs.cluster.environment.secrets_file
    return NotifySettings(tuple(receivers), str(file or ""))


def with_planned(stage: StagePlan, planned: Collection[str]) -> StagePlan:
    """Return a stage that also waits for what it reads where the same plan makes it."""
    more = [name for name in STAGE_KINDS[stage.stage].after_if_planned if name in planned]
    return replace(stage, after=(*stage.after, *more))


def findings(inputs: Inputs, stages: Sequence[str]) -> fit.Findings:
    """Return errors and warnings about these stages on this cluster."""
    result = fit.Findings()
    for stage in {section_name(stage): stage for stage in stages}.values():
        result += time_findings(inputs, stage)
    section, wrong_layout = inputs.experiment.finetune, False
    if PRETRAIN in stages:
        result += training_findings(inputs)
        wrong_layout = section.parallel is None and bool(layout_findings(inputs).errors)
    if FINETUNE in stages and section.models and not wrong_layout:  # one layout is wrong once
        result += finetuning.findings(inputs)
    if SELFTEST in stages:
        result += layout_findings(inputs)
    result += container_findings(inputs, [s for s in stages if inputs.environment(s)[1]])
    result += scoring_findings(inputs, stages)
    if "curate" in stages:
        result += fit.warning_findings(*corpus.warnings(inputs.corpus_tasks, inputs.source_bytes))
    return result + core_findings(inputs, stages)


def scoring_findings(inputs: Inputs, stages: Sequence[str]) -> fit.Findings:
    """Check that the models that are scored, and the judge, fit one node."""
    result = fit.Findings()
    for stage in ("evaluate", "generate"):
        if stage in stages:
            key = f"{section_name(stage)}.tensor"
            found = fit.evaluation_findings(
                inputs.cluster,
                inputs.partition(stage),
                model_spec(inputs.experiment),
                (key, section_of(inputs.experiment, stage).tensor),
                inputs.experiment.pretrain.precision,
            )
            result += found.at(inputs.locations.get(key, ""))
    if JUDGE in stages:
        result += judging.findings(inputs, stage_of(inputs, "generate"))
    return result


def core_findings(inputs: Inputs, stages: Sequence[str]) -> fit.Findings:
    """Check that a node has the cores of a task."""
    result = fit.Findings()
    for name in ("curate", "tokenize", PREPARE, "export"):
        if name in stages:
            cores = fit.core_findings(
                name, getattr(inputs.experiment, name).cpus, inputs.cpu_partition
            )
            result += cores.at(inputs.locations.get(f"{name}.cpus", ""))
    return result


def hints(inputs: Inputs, stages: Sequence[str]) -> list[str]:
    """Return what to change in a plan that has errors: settings that fit, or where to find them."""
    late = [stage for stage in stages if time_findings(inputs, stage).errors]
    lines = [line for stage in late if (line := time_hint(inputs, stage))]
    if (PRETRAIN in stages or SELFTEST in stages) and layout_findings(inputs).errors:
        lines.append(layout_hint(inputs) or HINT_LAYOUT)
    if PRETRAIN in stages and copy_findings(inputs).errors:
        half = inputs.cluster.gpu_partition.node.memory_gb / 2
        lines.append(f"--set pretrain.save_memory_gb={half:g} would fit")
    if lines:
        return lines
    name = section_name(next(stage for stage in stages if findings(inputs, [stage]).errors))
    return [
        f"`meditron explain {name}` lists the keys of the stage; --set {name}.KEY=VALUE changes it"
    ]


def time_hint(inputs: Inputs, stage: str) -> str:
    """Return the setting of a stage's time limit that fits; empty where none does."""
    key = f"{section_name(stage)}.time_minutes"
    minutes = section_of(inputs.experiment, stage).time_minutes
    lead = signal_lead(inputs, stage) if inputs.cluster.scheduler == "slurm" else 0
    near = fit.fitting_minutes(minutes, lead, inputs.partition(stage).max_time_minutes)
    return (
        f"--set {key}={near} would fit; `meditron explain {key}` explains the key" if near else ""
    )


def container_findings(inputs: Inputs, stages: Sequence[str]) -> fit.Findings:
    """Check that a container's mount option can name the paths that tasks read."""
    paths = [
        path
        for stage in stages
        for task in stage_of(inputs, stage).tasks
        for path in named_paths(task.spec)
    ]
    return fit.error_findings(
        *(
            f"{path!r} cannot be mounted into the container, since its name has a ':' or ','"
            for path in dict.fromkeys(paths)
            if ":" in path or "," in path
        )
    )


def time_findings(inputs: Inputs, stage: str) -> fit.Findings:
    """Check a stage's time limit against the partition's, and that it leaves time to work."""
    cluster, minutes = inputs.cluster, section_of(inputs.experiment, stage).time_minutes
    partition, section = inputs.partition(stage), section_name(stage)
    result = fit.time_findings(section, minutes, partition)
    if cluster.scheduler == "slurm":
        result += fit.lead_findings(section, minutes, signal_lead(inputs, stage))
    return result.at(inputs.locations.get(f"{section}.time_minutes", ""))


def training_findings(inputs: Inputs) -> fit.Findings:
    """Check a training's layout and schedule, and that nodes and jobs leave memory and time to
    save.
    """
    found = layout_findings(inputs) + copy_findings(inputs) + schedule_findings(inputs)
    return found + save_findings(inputs) if inputs.cluster.scheduler == "slurm" else found


def schedule_findings(inputs: Inputs) -> fit.Findings:
    """Warn of steps with a learning rate of 0, where the cosine or a tail has ended and training
    has not, and of steps to keep that training does not reach.
    """
    spec, asked = pretrain_spec(inputs), inputs.experiment.pretrain.keep_steps
    parts = [(0, spec.optimizer.decay_steps, spec.optimizer.min_learning_rate)]
    tails = [(start.first_step, start.phase.tail) for start in spec.starts]
    parts += [(first, tail.last_step, tail.learning_rate) for first, tail in tails if tail]
    ends = [*(first for first, _, _ in parts[1:]), spec.train_steps]
    sentences, is_zero = [], False
    for (first, last, rate), end in zip(parts, ends, strict=True):
        zero_from = first if is_zero else last
        is_zero = rate == 0 and last <= end
        if rate == 0 and zero_from < end:
            sentences.append(
                f"steps {zero_from + 1} to {end} have a learning rate of 0 and change no weights: "
                f"the schedule ends with step {last}; give them a phase whose tail ends above 0"
            )
    if later := ", ".join(map(str, asked[len(spec.keep_steps) :])):
        why = f"the last step is {spec.train_steps}"
        sentences.append(f"pretrain.keep_steps: {later} are never reached, {why}")
    return fit.warning_findings(*sentences)


def layout_findings(inputs: Inputs) -> fit.Findings:
    """Check that the layout divides, fills whole nodes and fits into memory."""
    experiment, cluster = inputs.experiment, inputs.cluster
    model, parallel, batch = model_spec(experiment), parallel_spec(experiment), batch_of(experiment)
    longest = models_of(experiment)[-1]
    lengths = {
        f"pretrain.phases.{index}.sequence_length": phase.sequence_length
        for index, phase in enumerate(experiment.pretrain.phases)
        if phase.sequence_length
    }
    errors = layout.layout_errors(model, parallel, batch.micro, batch.global_, lengths)
    result = fit.Findings(tuple(errors)) + fit.shape_findings(cluster, parallel)
    pretrain = experiment.pretrain
    precision, copies = pretrain.precision, memory.copies_without_limit(pretrain)
    result += fit.memory_findings(cluster, longest, parallel, batch, precision, copies=copies)
    return result + fit.sharing_findings(parallel.world_size, inputs.host_cores)


def copy_findings(inputs: Inputs) -> fit.Findings:
    """Check the memory that is set for copies of checkpoints."""
    limit = inputs.experiment.pretrain.save_memory_gb
    found = fit.copy_findings(inputs.cluster.gpu_partition, limit)
    return found.at(inputs.locations.get("pretrain.save_memory_gb", ""))


def save_findings(inputs: Inputs) -> fit.Findings:
    """Check that signals and preemption leave time to save; warn of the loss otherwise."""
    pretrain, partition = inputs.experiment.pretrain, inputs.cluster.gpu_partition
    lead = inputs.training_lead
    gpus = parallel_spec(inputs.experiment).world_size if partition.node.gpus else 0
    return (
        fit.given_lead_findings(lead).at(inputs.locations.get("pretrain.signal_lead_seconds", ""))
        + fit.grace_findings(partition, lead, pretrain.save_interval, gpus)
        + fit.interval_findings(pretrain.time_minutes, lead, pretrain.save_interval)
    )


def layout_hint(inputs: Inputs) -> str:
    """Return the settings of a layout that fits; empty where none does."""
    experiment = inputs.experiment
    configured = parallel_spec(experiment)
    near = fit.fitting_layout(
        inputs.cluster,
        models_of(experiment),
        configured,
        batch_of(experiment),
        experiment.pretrain.precision,
        copies=memory.copies_without_limit(experiment.pretrain),
    )
    if near is None or near == configured:
        return ""
    pieces = f"--set parallel.virtual={near.virtual} " * (near.virtual != configured.virtual)
    return (
        f"--set parallel.tensor={near.tensor} --set parallel.pipeline={near.pipeline} {pieces}"
        f"--set parallel.data={near.data} would fit"
    )


def site_settings(inputs: Inputs) -> SiteSettings:
    """Return the profile's settings that the scheduler needs."""
    cluster, environment = inputs.cluster, inputs.cluster.environment
    modules = tuple(f"module load {shlex.quote(name)}" for name in environment.modules)
    exports = tuple(
        f"export {name}={shlex.quote(value)}" for name, value in sorted(environment.set.items())
    )
    return SiteSettings(
        cluster=cluster.name,
        scheduler=cluster.scheduler,
        device=cluster.device,
        setup=modules + exports,
        environment=environment.pass_through,
        python=inputs.python,
        sbatch=tuple(sorted((key, str(value)) for key, value in cluster.slurm.sbatch.items())),
        requeue=cluster.slurm.requeue,
        recovery_job=recovery_job_resources(inputs),
    )


def recovery_job_resources(inputs: Inputs) -> Resources | None:
    """Return one core for ten minutes; None without Slurm or where jobs may not submit others."""
    cluster = inputs.cluster
    enabled = cluster.slurm.recovery_job and cluster.slurm.submit_from_jobs
    if cluster.scheduler != "slurm" or not enabled:
        return None
    return Resources(
        nodes=1,
        ranks_per_node=1,
        gpus_per_node=0,
        gpu_type="",
        cpus_per_rank=1,
        memory_gb=1 if inputs.cpu_partition.request_memory else 0,
        time_minutes=RECOVERY_JOB_MINUTES,
        signal_lead_seconds=SHORT_LEAD,
        **site_names(inputs, inputs.cpu_partition),
    )
