"""Experiment and profile to plan: whole plans held by files, and what each stage asks for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest

from jobs.contract.stage_specs import (
    CorpusSpec,
    EvaluateSpec,
    ExportSpec,
    GenerateSpec,
    JudgeSpec,
    PretrainSpec,
)
from meditron_cli.config.load import load
from meditron_cli.errors import ConfigError
from meditron_cli.plan.build import build
from meditron_cli.plan.inputs import Inputs
from meditron_cli.plan.stages import shares_of_shards
from meditron_cli.runs.launch_plan import result_of
from meditron_cli.scheduler.slurm import SlurmScheduler

from ...plans import GOLDEN, PYTHON, plan_of, plan_on, profile_of, to_text

CASES = [
    ("tiny-test-slurm", ("test-slurm", "tiny")),
    ("70b-rcp", ("rcp", "70b")),
    ("7b-site-pyxis", ("site-pyxis", "7b", "parallel.data=2", "curate.shards=103")),
    ("tiny-site-apptainer", ("site-apptainer", "tiny", "parallel.tensor=2")),
]


@pytest.mark.parametrize(("name", "arguments"), CASES)
def test_a_plan_is_the_one_on_file(
    name: str, arguments: tuple[str, ...], golden: Callable[[str, str], None]
) -> None:
    golden(f"{name}.plan", to_text(plan_of(*arguments)))


@pytest.mark.parametrize(("name", "arguments"), CASES)
def test_batch_scripts_are_the_ones_on_file(
    name: str, arguments: tuple[str, ...], golden: Callable[[str, str], None]
) -> None:
    run = Path("/runs") / name

    golden(f"{name}.sh", SlurmScheduler({}).render(plan_of(*arguments), run))


def test_a_site_without_requeue_gets_jobs_that_slurm_never_queues_again(
    tmp_path: Path,
) -> None:
    profile = tmp_path / "site.yaml"
    shipped = profile_of("test-slurm").read_text()
    profile.write_text(shipped.replace("slurm:\n", "slurm:\n  requeue: false\n"))

    script = SlurmScheduler({}).render(plan_on(profile, "tiny"), Path("/runs/trial"))

    assert "#SBATCH --requeue" not in script
    assert script.count("#SBATCH --no-requeue\n") == script.count("#!/bin/bash")


def test_equal_inputs_give_equal_plans() -> None:
    assert plan_of("rcp", "70b") == plan_of("rcp", "70b")


def test_a_plan_holds_the_requested_stages_in_pipeline_order() -> None:
    plan = plan_of("test-slurm", "tiny", stages=("evaluate", "curate"))

    assert [stage.stage for stage in plan.stages] == ["curate", "evaluate"]
    with pytest.raises(KeyError, match="pretrain"):
        plan.stage("pretrain")


def test_each_stage_waits_for_the_one_before() -> None:
    plan = plan_of("test-slurm", "tiny")

    before = {stage.stage: stage.after for stage in plan.stages}
    assert before == {
        "curate": (),
        "tokenize": ("curate",),
        "index": ("tokenize",),
        "pretrain": ("tokenize", "index"),
        "evaluate": ("pretrain",),
        "export": ("pretrain", "evaluate"),
    }


def test_an_export_by_itself_waits_for_no_evaluation() -> None:
    plan = plan_of("test-slurm", "tiny", stages=("export",))

    assert plan.stage("export").after == ("pretrain",)


@pytest.mark.parametrize(
    ("size", "step", "before"),
    [("7b", "first", "convert"), ("7b", "[first, last]", "pretrain"), ("tiny", "0", "pretrain")],
)
def test_an_export_of_step_0_alone_waits_for_the_stage_that_makes_it(size, step, before) -> None:
    plan = plan_of("test-slurm", size, f"export.step={step}", stages=("export",))

    assert plan.stage("export").after == (before,)


def test_kept_is_a_task_per_step_to_keep() -> None:
    plan = plan_of(
        "test-slurm", "tiny", "pretrain.keep_steps=[70, 400]", "export.step=[kept, 400, last]"
    )

    steps = [task.spec.checkpoint for task in plan.stage("export").tasks]
    assert steps == ["70", "400", "last"]
    assert plan.training.tasks[0].spec.keep_steps == (70, 400)


def test_each_checkpoint_has_an_export_task_with_a_folder_of_its_own() -> None:
    plan = plan_of("test-slurm", "tiny", "export.step=[first, 400, last]")

    stage = plan.stage("export")
    tasks = [task.spec for task in stage.tasks if isinstance(task.spec, ExportSpec)]
    assert [(task.checkpoint, task.output_dir) for task in tasks] == [
        ("first", "export-first"),
        ("400", "export-400"),
        ("last", "export"),
    ]
    assert {task.target_step for task in tasks} == {500}
    assert {task.shard_bytes for task in tasks} == {5 << 30}
    assert (stage.resources.partition, stage.resources.cpus_per_rank) == ("cpu", 4)


def test_every_shard_and_the_validation_has_a_tokenize_task() -> None:
    tasks = plan_of("test-slurm", "tiny", "curate.shards=3").stage("tokenize").tasks

    inputs = [name for task in tasks for name in task.spec.inputs]
    assert inputs == [
        "corpus/train/00000.jsonl",
        "corpus/train/00001.jsonl",
        "corpus/train/00002.jsonl",
        "corpus/validation/00000.jsonl",
    ]
    assert [task.index for task in tasks] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("tasks", "expected"),
    [
        (None, [("a", 0, 1), ("b", 0, 1), ("v", 0, 1)]),
        (2, [("av", 0, 1), ("b", 0, 1)]),
        (3, [("a", 0, 1), ("b", 0, 1), ("v", 0, 1)]),
        (7, [("a", 0, 3), ("b", 0, 2), ("v", 0, 2), ("a", 1, 3), ("b", 1, 2), ("v", 1, 2),
             ("a", 2, 3)]),
    ],
)  # fmt: skip
def test_any_number_of_tasks_shares_all_of_the_shards(
    tasks: int | None, expected: list[tuple[str, int, int]]
) -> None:
    found = shares_of_shards(["a", "b", "v"], tasks)

    assert [("".join(share.shards), share.part, share.parts) for share in found] == expected


def test_more_tokenize_tasks_than_shards_have_results_of_their_own() -> None:
    words = ("curate.shards=1", "tokenize.tasks=5", "tokenize.shard_tokens=1000")
    tasks = plan_of("test-slurm", "tiny", *words).stage("tokenize").tasks

    assert len({result_of(task.spec) for task in tasks}) == 5
    assert [task.spec.output_prefix for task in tasks] == [
        "tokens/train/00000",
        "tokens/validation/00000",
        "tokens/train/00000-0001",
        "tokens/validation/00000-0001",
        "tokens/train/00000-0002",
    ]


def test_every_checkpoint_meets_every_benchmark() -> None:
    tasks = plan_of("test-slurm", "tiny").stage("evaluate").tasks

    outputs = [task.spec.output_dir for task in tasks if isinstance(task.spec, EvaluateSpec)]
    assert outputs == [
        "evaluations/quiz/first",
        "evaluations/quiz/last",
        "evaluations/pubmedqa/first",
        "evaluations/pubmedqa/last",
    ]


def test_tasks_share_the_questions_of_each_score() -> None:
    tasks = plan_of("test-slurm", "tiny", "evaluate.tasks=3").stage("evaluate").tasks

    specs = [task.spec for task in tasks if isinstance(task.spec, EvaluateSpec)]
    assert [(spec.part, spec.parts) for spec in specs[:4]] == [(0, 3), (1, 3), (2, 3), (0, 3)]
    assert len({spec.output_dir for spec in specs}) == len(specs) / 3


def test_a_mode_has_a_folder_of_its_own_and_seeds_are_those_of_shots() -> None:
    quiz = "evaluate.benchmarks=[{name: p, path: /p, kind: pubmedqa, modes: [top-token, harness], "
    specs = [
        task.spec
        for task in plan_of("test-slurm", "tiny", f"{quiz}shots: 3}}]").stage("evaluate").tasks
        if isinstance(task.spec, EvaluateSpec)
    ]

    folders = ["p/first", "p/last", "p/first/harness", "p/last/harness"]
    assert [spec.output_dir for spec in specs] == [f"evaluations/{name}" for name in folders]
    assert [spec.mode for spec in specs] == ["top-token"] * 2 + ["harness"] * 2
    assert {spec.seeds for spec in specs} == {(1234, 432, 32)}


def test_a_finetuned_model_is_asked_in_the_conversation_that_it_was_taught() -> None:
    specs = [
        task.spec
        for task in plan_of(
            "test-slurm",
            "tiny",
            "finetune.models=[{name: medqa, data: [{path: /a}]}]",
            "finetune.template=paper",
            "evaluate.benchmarks=[{name: p, path: /p, kind: pubmedqa, model: medqa, "
            "modes: [top-token, harness]}]",
        )
        .stage("evaluate")
        .tasks
        if isinstance(task.spec, EvaluateSpec)
    ]

    folder = "evaluations/p/medqa-last"
    assert [(spec.output_dir, spec.finetuned, spec.template) for spec in specs] == [
        (folder, "medqa", "paper"),
        (f"{folder}/harness", "medqa", ""),
    ]


def test_four_ranks_of_the_test_slurm_lie_on_two_nodes() -> None:
    resources = plan_of("test-slurm", "tiny").stage("pretrain").resources

    assert (resources.nodes, resources.ranks_per_node, resources.gpus_per_node) == (2, 2, 2)


def test_training_on_datasets_of_ones_own_has_no_validation_of_the_run(tmp_path: Path) -> None:
    plan = plan_of("test-slurm", "tiny", f"pretrain.data=[{tmp_path}/a]", stages=("pretrain",))

    spec = plan.stage("pretrain").tasks[0].spec
    assert isinstance(spec, PretrainSpec)
    assert spec.corpora == (CorpusSpec("corpus", (f"{tmp_path}/a",), ()),)


def test_without_a_cpu_partition_everything_runs_where_the_gpus_are() -> None:
    plan = plan_of("site-apptainer", "tiny")

    assert {stage.resources.partition for stage in plan.stages} == {"batch"}
    assert plan.stage("curate").resources.gpus_per_node == 0


def test_without_cuda_evaluation_runs_on_the_cpu_partition_and_requests_no_gpu() -> None:
    resources = plan_of("test-slurm", "tiny", "evaluate.tensor=2").stage("evaluate").resources

    assert (resources.partition, resources.gpus_per_node) == ("cpu", 0)
    assert (resources.nodes, resources.ranks_per_node) == (1, 2)


def test_containers_see_what_their_task_reads_to_read_only() -> None:
    plan = plan_of("site-pyxis", "7b", "parallel.data=2", "pretrain.data=[/other/tokens/00000]")

    mounts = {
        stage.stage: stage.tasks[0].srun_args[2].removeprefix("--container-mounts=").split(",")
        for stage in plan.stages
    }
    both = ["/data:/data", "{run}:{run}"]
    tokenizer = "/data/tokenizer.json:/data/tokenizer.json:ro"
    assert mounts == {
        "curate": [*both, "/data/corpus:/data/corpus:ro"],
        "tokenize": [*both, tokenizer],
        "index": [*both, tokenizer, "/other/tokens:/other/tokens:ro"],
        "convert": [*both, tokenizer],
        "pretrain": [*both, tokenizer, "/other/tokens:/other/tokens:ro"],
        "evaluate": [*both, tokenizer, "/data/quiz.jsonl:/data/quiz.jsonl:ro"],
        "export": [*both, tokenizer],
    }


def test_a_stage_has_the_interpreter_or_the_container_that_the_profile_names_for_it(
    tmp_path: Path,
) -> None:
    profile = tmp_path / "site.yaml"
    text = profile_of("site-pyxis").read_text()
    own = "environment:\n  stages: {evaluate: {python: /envs/lm-eval/bin/python}}\n"
    profile.write_text(text.replace("environment:\n", own))
    loaded = load(str(profile), "7b", GOLDEN / "experiment.yaml", ["parallel.data=2"])

    plan = build(
        Inputs(loaded.experiment, loaded.cluster, "7b", "0" * 64, PYTHON), ("evaluate", "export")
    )

    evaluate, export = (stage.tasks[0] for stage in plan.stages)
    assert evaluate.python == ("/envs/lm-eval/bin/python",)
    assert not any("--container" in word for word in evaluate.srun_args)
    assert any(word.startswith("--container-image=") for word in export.srun_args)


def test_a_container_sees_the_files_to_which_those_of_a_model_are_links() -> None:
    loaded = load(
        str(profile_of("site-pyxis")), "7b", GOLDEN / "experiment.yaml", ["parallel.data=2"]
    )
    snapshot, blobs = "/hub/models--a--b/snapshots/1", "/hub/models--a--b/blobs"
    inputs = Inputs(
        loaded.experiment, loaded.cluster, "7b", "0" * 64, PYTHON,
        weights_folder=snapshot, weights_links=(blobs,),
    )  # fmt: skip

    plan = build(inputs, ("convert", "pretrain"))

    mounts = [stage.tasks[0].srun_args[2] for stage in plan.stages]
    assert mounts[0].endswith(f",{snapshot}:{snapshot}:ro,{blobs}:{blobs}:ro")
    assert "/hub/" not in mounts[1]


def test_what_no_mount_option_can_name_is_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        plan_of("site-apptainer", "tiny", "curate.sources=['/data/a,b', '/data/c:d']")

    assert caught.value.message.splitlines() == [
        "'/data/a,b' cannot be mounted into the container, since its name has a ':' or ','",
        "'/data/c:d' cannot be mounted into the container, since its name has a ':' or ','",
    ]


def test_sequence_parallelism_follows_tensor_parallelism_unless_turned_off() -> None:
    def sequence_parallel(*overrides: str) -> bool:
        spec = plan_of("test-slurm", "tiny", *overrides).stage("pretrain").tasks[0].spec
        assert isinstance(spec, PretrainSpec)
        return spec.parallel.sequence_parallel

    assert sequence_parallel()
    assert not sequence_parallel("parallel.sequence_parallel=false")
    assert not sequence_parallel("parallel.tensor=1", "parallel.sequence_parallel=true")


def test_evaluation_pads_the_vocabulary_as_training_did() -> None:
    plan = plan_of("rcp", "70b", "evaluate.tensor=4")

    specs = [plan.stage(stage).tasks[0].spec for stage in ("pretrain", "evaluate")]
    assert [spec.model.padded_vocab_size for spec in specs if hasattr(spec, "model")] == [32768] * 2


def test_every_reason_why_a_plan_cannot_be_is_given_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        plan_of(
            "site-pyxis",
            "7b",
            "parallel.tensor=3",
            "parallel.data=16",
            "pretrain.time_minutes=2-00:00:00",
            "tokenize.cpus=17",
        )

    assert caught.value.message.splitlines() == [
        "pretrain.time_minutes = 2880 is over the 1440 minutes of partition gpu",
        "model.attention_heads = 32 is not divisible by parallel.tensor = 3; 30 or 33 would be",
        "model.kv_heads = 32 is not divisible by parallel.tensor = 3; 30 or 33 would be",
        "model.ffn_hidden_size = 11008 is not divisible by parallel.tensor = 3; 11007 or 11010 "
        "would be",
        "model.seq_length = 2048 is not divisible by parallel.tensor = 3; 2046 or 2049 would be",
        "parallel.tensor x pipeline x data = 3 x 1 x 16 = 48 ranks, but cluster site-pyxis has 8 "
        "GPUs (2 nodes of 4)",
        "tokenize.cpus = 17 is more than the 16 cores of a node in cpu",
    ]


def test_a_time_limit_counts_only_for_stages_that_are_planned() -> None:
    plan = plan_of(
        "site-pyxis", "7b", "evaluate.time_minutes=2-00:00:00", stages=("curate", "tokenize")
    )

    assert [stage.stage for stage in plan.stages] == ["curate", "tokenize"]


def test_on_this_machine_no_signal_comes_too_early() -> None:
    plan = plan_on(profile_of("local"), "tiny", "evaluate.time_minutes=1")

    assert plan.warnings == ()


@pytest.mark.parametrize(
    ("stage", "setting"), [("evaluate", "evaluate.checkpoints"), ("export", "export.step")]
)
def test_what_reads_step_0_alone_follows_its_conversion(stage: str, setting: str) -> None:
    def after(*checkpoints: str) -> tuple[str, ...]:
        plan = plan_of("rcp", "70b", f"{setting}=[{', '.join(checkpoints)}]")
        return next(item for item in plan.stages if item.stage == stage).after

    assert after("first")[0] == after("0")[0] == "convert"
    assert after("first", "last")[0] == "pretrain"


EXAM = "evaluate.benchmarks=[{name: exam, path: /data/exam.jsonl, kind: medqa4, shots: 3, %s}]"


def generations(*settings: str) -> dict[str, GenerateSpec]:
    """Return the first task of each score of generated answers, by its folder."""
    tasks = plan_of("test-slurm", "tiny", *settings, stages=("generate",)).stage("generate").tasks
    specs = [cast(GenerateSpec, task.spec) for task in tasks]
    return {spec.output_dir: spec for spec in specs if spec.part == 0}


def test_modes_that_generate_read_the_exported_models_that_are_evaluated() -> None:
    exam = EXAM % "modes: [top-token, cot, sc-cot]"
    found = generations(exam, "export.step=[first, last]", "evaluate.checkpoints=[last]")

    assert list(found) == ["evaluations/exam/last/cot", "evaluations/exam/last/sc-cot"]
    greedy, voted = found.values()
    assert (greedy.folder, greedy.template, greedy.max_tokens) == ("export", "", 1024)
    assert (greedy.samples, greedy.temperature, greedy.frequency_penalty) == (1, 0.0, 0.0)
    assert (voted.samples, voted.temperature, voted.frequency_penalty) == (5, 0.8, 0.0)


def test_the_released_evaluation_generates_short_answers_and_penalises_repetition() -> None:
    found = generations(EXAM % "legacy: true, modes: [top-token, sc-cot]")

    short, voted = found.values()
    assert list(found) == [
        "evaluations/exam/last/legacy-top-token", "evaluations/exam/last/legacy-sc-cot"
    ]  # fmt: skip
    assert (short.max_tokens, short.samples, short.frequency_penalty) == (9, 1, 1.0)
    assert (voted.samples, voted.temperature, voted.frequency_penalty) == (10, 0.8, 1.0)
    assert generations((EXAM % "legacy: true").replace("shots: 3", "shots: 0"))[
        "evaluations/exam/last/legacy-top-token"
    ].max_tokens == 1  # fmt: skip


def test_the_released_evaluation_lacks_a_question_of_each_subject_of_mmlu() -> None:
    exam = EXAM.replace("medqa4", "mmlu") % "legacy: true"

    (spec,) = generations(exam).values()

    assert spec.options.skip_first_rows


def test_tasks_share_the_questions_and_a_task_of_vllm_has_the_gpus_of_its_node() -> None:
    exam = EXAM % "modes: [cot]"
    sets = ("evaluate.generate.tasks=3", "evaluate.generate.backend=vllm")
    plan = plan_of("test-slurm", "tiny", exam, *sets, "evaluate.generate.tensor=2",
                   stages=("export", "generate"))  # fmt: skip

    stage = plan.stage("generate")
    assert [task.spec.part for task in stage.tasks] == [0, 1, 2]  # type: ignore[union-attr]
    assert (stage.resources.nodes, stage.resources.ranks_per_node) == (1, 1)
    assert {task.ranks for task in stage.tasks} == {1}
    assert stage.after == ("export",)


def test_a_generation_without_an_exported_model_is_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        generations(EXAM % "modes: [cot]", "export.step=[first]", "evaluate.checkpoints=[last]")

    assert "cot generates with exported models, and export.step names none" in caught.value.message


HEALTH = "evaluate.benchmarks=[{name: health, path: /data/health.jsonl, kind: healthbench}]"
CHECKPOINTS = ("export.step=[first, last]", "evaluate.checkpoints=[first, last]")


def test_a_judge_grades_each_models_answers_and_compares_pairs_behind_generate() -> None:
    judge = "evaluate.judge={folder: /models/j, tasks: 2, pairs: [%s]}"
    sets = (HEALTH, *CHECKPOINTS, judge % "{first: health/first, second: health/last}")

    stage = plan_of("test-slurm", "tiny", *sets, stages=("generate", "judge")).stage("judge")

    specs = [cast(JudgeSpec, task.spec) for task in stage.tasks]
    assert [(spec.output_dir, spec.part) for spec in specs if spec.part == 1] == [
        ("evaluations/health/first/judged", 1),
        ("evaluations/health/last/judged", 1),
        ("evaluations/health/first/judged-against-health-last", 1),
    ]
    assert specs[-1].other_answers == "evaluations/health/last/answers/answers.jsonl"
    assert (len(specs), stage.after) == (6, ("generate",))


def test_no_judge_is_planned_unless_one_is_named_and_unknown_models_are_no_pair() -> None:
    judge = "evaluate.judge={folder: /j, pairs: [{first: health/first, second: health/9}]}"
    stages = ("generate", "judge")

    with pytest.raises(ConfigError) as caught:
        plan_of("test-slurm", "tiny", HEALTH, *CHECKPOINTS, judge, stages=stages)

    plan = plan_of("test-slurm", "tiny", HEALTH, *CHECKPOINTS)
    assert "judge" not in [stage.stage for stage in plan.stages]
    assert (
        "evaluate.judge.pairs[0]: no model's answers are called 'health/9'; there are "
        "health/first, health/last"
    ) in caught.value.message
