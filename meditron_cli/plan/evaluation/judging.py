"""Plan the judging of answers in text. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from jobs.contract.stage_specs import JUDGE, GenerateSpec, JudgeSpec
from meditron_cli.config.evaluation.schema import JUDGED_KIND
from meditron_cli.plan import fit
from meditron_cli.plan.inputs import Inputs
from meditron_cli.plan.model import StagePlan
from meditron_cli.plan.stage_plan import rank_resources, stage_plan

if TYPE_CHECKING:
    from meditron_cli.config.evaluation.judge import Judge

ANSWERS = "answers.jsonl"
BATCH_SIZES = {"transformers": 16, "vllm": 256}


@dataclass(frozen=True)
class Judged:
    """The judge, and the answers to judge by their names in ``evaluations``."""

    judge: Judge
    answers: dict[str, GenerateSpec]

    @classmethod
    def of(cls, judge: Judge, generated: StagePlan) -> Judged:
        """Return the answers to judge among those that a run generates."""
        specs = (task.spec for task in generated.tasks)
        found = [
            spec
            for spec in specs
            if isinstance(spec, GenerateSpec) and spec.kind == JUDGED_KIND and not spec.part
        ]
        return cls(judge, {f"{spec.benchmark}/{spec.checkpoint}": spec for spec in found})

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yield key and sentence of each pair that cannot be compared."""
        for index, pair in enumerate(self.judge.pairs):
            key = f"evaluate.judge.pairs[{index}]"
            known = ", ".join(self.answers)
            unknown = [name for name in (pair.first, pair.second) if name not in self.answers]
            for name in unknown:
                yield key, f"no model's answers are called {name!r}; there are {known}"
            if not unknown:
                first, second = (self.answers[name] for name in (pair.first, pair.second))
                if (first.path, first.limit) != (second.path, second.limit):
                    yield key, f"{pair.first} and {pair.second} answer other files, or other limits"


def judge_stage(inputs: Inputs, generated: StagePlan) -> StagePlan:
    """Plan the tasks that grade each model's answers, and of each pair of models.

    Args:
        generated: the plan of the answers.
    """
    judge = inputs.experiment.evaluate.judge
    if judge is None:
        raise ValueError("no judge to plan for")
    judged = Judged.of(judge, generated)
    whole = [judge_spec(inputs, judge, spec, None) for spec in judged.answers.values()]
    for pair in judge.pairs:
        if {pair.first, pair.second} <= judged.answers.keys():
            both = (judged.answers[name] for name in (pair.first, pair.second))
            whole.append(judge_spec(inputs, judge, *both))
    tasks = [replace(spec, part=part) for spec in whole for part in range(spec.parts)]
    # vLLM starts the processes of its GPUs itself.
    resources = rank_resources(inputs, JUDGE, judge.tensor)
    cores = resources.cpus_per_rank * resources.ranks_per_node
    resources = replace(resources, ranks_per_node=1, cpus_per_rank=cores)
    return stage_plan(inputs, JUDGE, tasks, resources, judge.max_parallel)


def judge_spec(
    inputs: Inputs, judge: Judge, spec: GenerateSpec, other: GenerateSpec | None
) -> JudgeSpec:
    """Return the first of the tasks that share the verdicts on one or two models' answers."""
    place = f"evaluations/{spec.benchmark}/{spec.checkpoint}"
    against = f"-against-{other.benchmark}-{other.checkpoint}" if other else ""
    return JudgeSpec(
        benchmark=spec.benchmark,
        path=spec.path,
        checkpoint=spec.checkpoint,
        answers=f"{spec.output_dir}/{ANSWERS}",
        other=f"{other.benchmark}/{other.checkpoint}" if other else "",
        other_answers=f"{other.output_dir}/{ANSWERS}" if other else "",
        folder=str(judge.folder),
        grades=str(judge.grades or ""),
        backend=judge.backend,
        device=inputs.cluster.device,
        tensor=judge.tensor,
        batch_size=judge.batch_size or BATCH_SIZES[judge.backend],
        max_tokens=judge.max_tokens,
        temperature=judge.temperature,
        seed=inputs.experiment.seed,
        output_dir=f"{place}/judged{against}",
        parts=judge.tasks,
    )


def findings(inputs: Inputs, generated: StagePlan) -> fit.Findings:
    """Check that each pair has two models that answer one file, and that a node has the judge's
    GPUs. Whether it has their memory is not known: no plan reads the judge.
    """
    judge = inputs.experiment.evaluate.judge
    if judge is None:
        return fit.Findings()
    result = fit.Findings()
    for key, sentence in Judged.of(judge, generated).problems():
        result += fit.error_findings(f"{key}: {sentence}").at(inputs.locations.get(key, ""))
    partition, key = inputs.partition(JUDGE), "evaluate.judge.tensor"
    slots = fit.ranks_per_node(partition, inputs.cluster.device, judge.tensor)
    found = fit.slot_findings(partition, slots, (key, judge.tensor))
    return result + found.at(inputs.locations.get(key, ""))
