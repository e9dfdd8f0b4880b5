"""The section of evaluations: checkpoints scored on benchmarks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, NonNegativeInt, PositiveFloat, PositiveInt

from jobs.contract.corpus.benchmark_files import why_not_harness
from meditron_cli.config.evaluation.judge import Judge
from meditron_cli.config.field_types import (
    OPERATIONAL,
    Checkpoint,
    DataPath,
    DurationMinutes,
    Line,
    Name,
    listed,
)
from meditron_cli.config.section import Section

QuestionKind = Literal[
    "mcq",
    "pubmedqa",
    "mmlu",
    "medmcqa",
    "medqa",
    "medqa4",
    "truthfulqa",
    "medxpertqa",
    "mmlu_pro",
    "headqa",
    "med_concepts_qa",
    "safety",
    "healthbench",
]
"""As ``jobs.questions.readers`` reads them."""
WITH_SUBJECTS = ("mmlu", "truthfulqa", "mmlu_pro", "headqa", "med_concepts_qa")
"""Kinds of which some subjects can be read."""

TOP_TOKEN, HARNESS = "top-token", "harness"
JUDGED_KIND = "healthbench"
OPEN_KINDS, ANSWERS = ("safety", JUDGED_KIND), "answers"
"""The kinds whose questions have no choices, and the mode in which they are answered."""


class Benchmark(Section):
    """Multiple-choice questions in a file."""

    name: Name
    """Short name, used in paths and tables."""
    path: DataPath
    """The questions: a path, relative to the file that names it, or
    ``hf://datasets/ORG/NAME/PATH``, with ``@REVISION`` after NAME for one revision, which
    `meditron fetch` downloads to the profile's ``data_dir``."""
    kind: QuestionKind = "mcq"
    """Layout of the file."""
    train: DataPath | None = None
    """Records of the same layout to learn from, where they are not in ``path``: worked
    examples."""
    subjects: Annotated[tuple[Line, ...], BeforeValidator(listed)] = ()
    """Subjects that are read, all without any; of mmlu also ``medical`` (the nine of MEDITRON) and
    ``general``, of truthfulqa the medical categories without any."""
    first_answer: Literal[0, 1] = 1
    """Number of the first option in ``cop`` of medmcqa: 1 as published, 0 in mirrors."""
    skip_first_rows: bool = False
    """Leave out the first row of each file of mmlu, as the mirror that MEDITRON was scored on does:
    1,862 questions of the medical subjects, not 1,871."""
    model: str = ""
    """A finetuned model, by its name in ``finetune.models``, whose last checkpoint is scored;
    default: the checkpoints of pretraining that ``evaluate.checkpoints`` names."""
    modes: tuple[Literal["top-token", "cot", "sc-cot", "harness"], ...] = ("top-token",)
    """``top-token``: the option with the highest log-likelihood; ``harness``: the same with the
    prompts of lm-eval's task, for ``pubmedqa``, ``medmcqa``, ``medqa4``, ``mmlu``, ``headqa`` and
    ``med_concepts_qa``. On exported models ``cot``: a generated chain of thought; ``sc-cot``: the
    majority of several."""
    legacy: bool = False
    """Whether to generate by the settings and rules of the released evaluation
    (docs/evaluation.md); ``top-token`` is then generated too, beside its score by likelihood."""
    shots: NonNegativeInt = 0
    """Worked examples before each question."""
    demonstrations: Literal["pooled", "per-subject"] = "pooled"
    """Train records that worked examples are drawn from: all of the benchmark, or those of the
    question's subject."""
    permute: Annotated[int, Field(ge=0, le=100)] = 0
    """Permutations of the options under which each question is scored beside the order of its
    file; the report has their mean, spread and consistency."""
    limit: NonNegativeInt = 0
    """Questions scored, a sample by ``seed`` in which each answer has its share; 0 means all."""

    @property
    def scored(self) -> tuple[str, ...]:
        """Return the modes that compare likelihoods."""
        if self.kind in OPEN_KINDS:
            return ()
        return tuple(mode for mode in self.modes if mode in (TOP_TOKEN, HARNESS))

    @property
    def generated(self) -> tuple[str, ...]:
        """Return the modes whose answers are generated."""
        if self.kind in OPEN_KINDS:
            return (ANSWERS,)
        by_likelihood = {HARNESS} if self.legacy else {TOP_TOKEN, HARNESS}
        return tuple(mode for mode in self.modes if mode not in by_likelihood)

    def conflicts(self) -> Iterator[tuple[str, str]]:
        """Check that settings of some kinds stand with these, that no mode is named twice, and that
        the released rules have an answer to find.
        """
        yield from self._kind_conflicts()
        if self.model and self.shots and self.modes != ("harness",):
            yield "shots", "a finetuned model answers without worked examples"
        if len(set(self.modes)) < len(self.modes):
            yield "modes", "a mode is listed twice"
        if not self.modes:
            yield "modes", "names no mode, and nothing would be scored; remove the benchmark"
        if "harness" in self.modes and (reason := why_not_harness(self.kind)):
            yield "modes", f"{reason}; remove harness"
        if self.legacy and self.kind == "mcq":
            yield "legacy", "the released rules read letters, and yes and no; kind mcq has neither"

    def _kind_conflicts(self) -> Iterator[tuple[str, str]]:
        """Check that settings of some kinds stand with these."""
        if self.subjects and self.kind not in WITH_SUBJECTS:
            yield "subjects", f"{self.kind} has no subjects, {', '.join(WITH_SUBJECTS)} have"
        if self.first_answer != 1 and self.kind != "medmcqa":
            yield "first_answer", f"it is a setting of medmcqa, not of {self.kind}"
        if self.skip_first_rows and self.kind != "mmlu":
            yield "skip_first_rows", f"it is a setting of mmlu, not of {self.kind}"
        has_mode = self.legacy or self.shots or self.modes != (TOP_TOKEN,)
        if self.kind in OPEN_KINDS and has_mode:
            yield (
                "kind",
                (f"questions of kind {self.kind} have no choices: remove modes, shots and legacy"),
            )


class Generate(Section):
    """Answers as text, on exported models."""

    backend: Literal["transformers", "vllm"] = "transformers"
    """``transformers``: small models, one device; ``vllm``: models on GPUs, from an environment of
    its own (``environment.stages.generate`` of the profile, extra ``serve``)."""
    tasks: Annotated[int, Field(ge=1, le=1000)] = 1
    """Array tasks that share the questions of one benchmark, model and mode."""
    tensor: PositiveInt = 1
    """GPUs of one task, on one node (vllm)."""
    batch_size: PositiveInt | None = None
    """Generations that are computed at once; 16 with transformers and 256 with vllm by default.
    A stop or a kill loses the batch at work."""
    max_tokens: PositiveInt = 1024
    """Most tokens of a chain of thought. The rest of the model's context is for the question, which
    loses its beginning if it has more."""
    samples: Annotated[PositiveInt, Field(le=100)] = 5
    """Generations of which sc-cot takes the majority; 10 with ``legacy``."""
    temperature: PositiveFloat = 0.8
    """Of sc-cot; the other modes are greedy."""
    max_parallel: Annotated[PositiveInt, OPERATIONAL] = 16
    """Tasks that run at once."""
    time_minutes: Annotated[DurationMinutes, OPERATIONAL] = 240
    """Time limit of one task."""

    def conflicts(self) -> Iterator[tuple[str, str]]:
        """Check that only vllm has several GPUs."""
        if self.backend == "transformers" and self.tensor > 1:
            yield "tensor", "transformers generates on one device; set backend to vllm"


class Evaluate(Section):
    """Checkpoints scored on benchmarks by the log-likelihood of the options."""

    benchmarks: tuple[Benchmark, ...] = ()
    """Benchmarks to score on, each ``{name, path, kind}``. Two lines of each layout, as published
    (docs/data.md):

    - mcq, .jsonl: {"id": "1", "question": "Which?", "choices": ["one", "two"], "answer": 0}
    - mcq: {"id": "2", "question": "Who?", "choices": ["a", "b"], "answer": 1, "split": "train"}
    - pubmedqa, ori_pqal.json beside test_ground_truth.json: {"21645374": {"QUESTION": "Do …?",
      "CONTEXTS": ["…"], "LONG_ANSWER": "…", "final_decision": "yes"}, …
    - pubmedqa, as train, ori_pqaa.json: {"25429730": {"QUESTION": "…", "CONTEXTS": ["…"], …}, …
    - mmlu, *_test.csv beside *_dev.csv: "Which nerve, if cut, …?",Ulnar,Median,Radial,Axillary,C
    - mmlu: Which bone is in the thigh?,Tibia,Femur,Fibula,Ulna,B
    - medmcqa, .json or .jsonl: {"id": "a1", "question": "…", "opa": "…", …, "opd": "…", "cop": 4}
    - medmcqa: {"id": "a2", "question": "…", "opa": "…", …, "cop": 1, "subject_name": "…", "exp": …}
    - medqa with five options, medqa4 with four, .jsonl: {"question": "…", "answer": "…", "options":
      {"A": "…", …}, "meta_info": "step1", "answer_idx": "E"}
    - medqa, as train: {"question": "…", "options": {"A": "…", …}, "answer_idx": "B", "exp": "…"}
    - truthfulqa, TruthfulQA.csv: Type,Category,Question,Best Answer,Correct Answers,Incorrect
      Answers,Source
    - truthfulqa: Adversarial,Health,Does …?,"No, …",No; Never,Yes; Always; Often,https://…
    - medxpertqa, Text/test.jsonl: {"id": "Text-0", "question": "…", "options": {"A": "…", …, "J":
      "…"}, "label": "E", "medical_task": "Diagnosis"}
    - medxpertqa, as train, Text/dev.jsonl: {"id": "Text-1", "question": "…", "options": {…}, …}
    - mmlu_pro, .parquet or .jsonl: {"question_id": 70, "question": "…", "options": ["…", …],
      "answer": "I", "category": "health"}
    - mmlu_pro: {"question_id": 71, "question": "…", "options": ["…", …], "answer": "A", …}
    - headqa, .json as published: {"exams": {"Cuaderno_2013_1_B": {"category": "biology", "data":
      [{"qtext": "…", "ra": "3", "answers": [{"aid": 1, "atext": "…"}, …]}, …
    - headqa, .jsonl or .parquet: {"qtext": "…", "ra": 3, "answers": […], "category": "biology"}
    - med_concepts_qa, .parquet or .jsonl: {"question_id": 1, "question": "…", "option1": "…", …,
      "option4": "…", "answer_id": "A", "vocab": "ICD10CM", "level": "easy"}
    - med_concepts_qa: {"question_id": 2, "question": "…", …, "vocab": "ATC", "level": "hard"}
    - safety, jobs/questions/safety.jsonl, answered by exports: {"id": "…", "theme": "ethics", …
    - safety: {"id": "bias-1", "theme": "bias", "prompt": "…?"}
    - healthbench, .jsonl, answered by exports and graded by ``judge``: {"prompt_id": "…", "prompt":
      [{"role": "user", "content": "…"}], "rubrics": [{"criterion": "…", "points": 5, "tags": […]},
      …], "example_tags": ["theme:global_health", …], …}
    - healthbench: {"prompt_id": "…", "prompt": […], "rubrics": […], "example_tags": […]}
    """
    checkpoints: tuple[Checkpoint, ...] = ("first", "last")
    """``first`` (before training), ``last`` (the target step), step numbers that are kept, or
    ``kept`` for each of ``pretrain.keep_steps``."""
    published: tuple[str, ...] = ("Meditron", "Llama-2")
    """Models whose published scores `meditron report` prints beside ours, where benchmark and mode
    are the same, in the size that is nearest: beginnings of their names, as ``PMC-Llama``."""
    seeds: tuple[NonNegativeInt, ...] = (1234, 432, 32)
    """Of the worked examples, where a benchmark has ``shots``: its questions are scored once per
    seed. Default: those of the released evaluation."""
    seq_length: PositiveInt | None = None
    """Most tokens of a prompt with an option, which loses its beginning otherwise; default: those
    of the longest sequences in training, the most for a model that began with random weights."""
    tasks: Annotated[int, Field(ge=1, le=1000)] = 1
    """Array tasks that share the questions of one benchmark and checkpoint."""
    tensor: PositiveInt = 1
    """GPUs of one task (tensor parallel, one node)."""
    batch_size: PositiveInt = 16
    """Sequences per forward pass."""
    max_parallel: Annotated[PositiveInt, OPERATIONAL] = 16
    """Tasks that run at once."""
    time_minutes: Annotated[DurationMinutes, OPERATIONAL] = 240
    """Time limit of one task."""
    generate: Generate = Generate()
    """Answers as text, for modes ``cot`` and ``sc-cot``, for ``legacy``, and to questions without
    choices."""
    judge: Judge | None = None
    """A model that grades the answers to benchmarks of kind ``healthbench``; default: none."""

    @property
    def judged(self) -> bool:
        """Return whether a judge has answers to grade."""
        return self.judge is not None and any(
            benchmark.kind == JUDGED_KIND for benchmark in self.benchmarks
        )

    def conflicts(self) -> Iterator[tuple[str, str]]:
        """Check that benchmarks have different names; equal ones would write the same files."""
        names: set[str] = set()
        for index, benchmark in enumerate(self.benchmarks):
            if benchmark.name in names:
                yield (
                    f"benchmarks.{index}.name",
                    f"a benchmark before this one is named {benchmark.name!r} too",
                )
            names.add(benchmark.name)
        for index, checkpoint in enumerate(self.checkpoints):
            if checkpoint in self.checkpoints[:index]:
                yield f"checkpoints.{index}", f"{checkpoint} is listed twice"
        if len(set(self.seeds)) < len(self.seeds):
            yield "seeds", "a seed is listed twice"
        if not self.seeds and any(benchmark.shots for benchmark in self.benchmarks):
            yield "seeds", "a benchmark has shots, whose worked examples are drawn with a seed"
