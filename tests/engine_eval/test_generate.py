"""Answers as text by an exported model: the same for any number of tasks and any kills."""

from __future__ import annotations

import json
import random
import signal
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from jobs.contract import done_markers, specs
from jobs.contract.errors import STOPPED
from jobs.contract.files import read_json, read_lines, sha256, write_json
from jobs.contract.rundir import RunDir
from jobs.contract.stage_specs import GenerateSpec, JudgeSpec
from jobs.evaluation import safety
from jobs.questions.safety import OWN
from meditron_cli.reporting import judged, scores

from ..byte_tokenizer import EOD, write_byte_tokenizer
from ..fork_server import ForkedRank, ForkServer
from ..jobs.conversion.models import save_folder, small
from ..model_specs import tokenizer_ref
from ..ranks import PATIENCE, wait_until
from ..task_specs import task_spec
from .conftest import environment

pytestmark = pytest.mark.engine

CONTROL = ("<|im_start|>", "<|im_end|>")
CONTEXT = 512
QUESTIONS = 13


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a small model whose tokens are bytes and those of a template."""
    folder = tmp_path_factory.mktemp("run") / "export"
    spec = small(vocab_size=259, padded_vocab_size=288, seq_length=CONTEXT)
    save_folder(folder, spec)
    write_byte_tokenizer(folder / "tokenizer.json", CONTROL)
    config = json.loads((folder / "config.json").read_text()) | {"eos_token_id": 256}
    (folder / "config.json").write_text(json.dumps(config))
    record = {"step": 4, "digests": {"manifest of the checkpoint": "5e"}, "files": {}}
    write_json(folder / "meditron.json", record)
    return folder


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("benchmark") / "dev.jsonl"
    options = {f"op{letter}": f"option {letter}" for letter in "abcd"}
    items = [
        {"id": f"q{n}", "question": f"Which is {'very ' * n}old?", **options, "cop": n % 4 + 1}
        for n in range(QUESTIONS)
    ]
    path.write_text("".join(json.dumps(item) + "\n" for item in items))
    return path


@dataclass
class Generation:
    """A run with the tasks of one score."""

    run: RunDir
    tasks: list[specs.TaskSpec]
    server: ForkServer
    starts: int = 0

    def begin(self, index: int) -> ForkedRank:
        self.starts += 1
        log = self.run.root / f"{self.starts}.log"
        words = (self.tasks[index].stage, str(self.run.root), str(index))
        return self.server.start(words, env=environment(), cwd=self.run.root, stdout=log)

    def finish(self, index: int) -> str:
        rank = self.begin(index)
        output, _ = rank.communicate(timeout=PATIENCE)
        assert rank.returncode == 0, output
        return output

    @property
    def folder(self) -> Path:
        return self.run.path(self.tasks[0].spec.output_dir)

    @property
    def results(self) -> dict[str, Any]:
        return read_json(self.folder / "results.json")

    @property
    def lines(self) -> int:
        return sum(path.read_bytes().count(b"\n") for path in self.folder.glob("answers-*.jsonl"))

    @property
    def answers(self) -> list[Any]:
        """Return the stored answers, in the order of their items."""
        (path,) = self.folder.glob("answers-*.jsonl")
        blocks = [json.loads(line.split(" ", 1)[1]) for line in path.read_text().splitlines()]
        return sorted(answer for block in blocks for answer in block["answers"])


@pytest.fixture
def generation(tmp_path, exported, benchmark, fork_server):
    """Make a run with the tasks of one score, with some fields replaced."""

    def make(parts: int = 1, **fields: Any) -> Generation:
        run = RunDir(tmp_path / f"run-{parts}")
        run.root.mkdir()
        tokenizer = exported / "tokenizer.json"
        spec = GenerateSpec(
            **{
                "benchmark": "medmcqa",
                "path": str(benchmark),
                "kind": "medmcqa",
                "folder": str(exported),
                "checkpoint": "last",
                "model": "",
                "tokenizer": tokenizer_ref(str(tokenizer), sha256(tokenizer), EOD, 259),
                "mode": "sc-cot",
                "legacy": False,
                "template": "code",
                "instructions": "",
                "shots": 0,
                "seeds": (1234,),
                "demonstrations": "pooled",
                "limit": 0,
                "seed": 1234,
                "backend": "transformers",
                "device": "cpu",
                "tensor": 1,
                "batch_size": 6,
                "max_tokens": 16,
                "samples": 3,
                "temperature": 0.8,
                "frequency_penalty": 0.0,
                "output_dir": "evaluations/medmcqa/last/sc-cot",
                "parts": parts,
                **fields,
            }
        )
        tasks = [task_spec("generate", replace(spec, part=part), part) for part in range(parts)]
        for task in tasks:
            write_json(run.spec("generate", task.index), specs.to_json(task))
        return Generation(run, tasks, fork_server)

    return make


@pytest.mark.parametrize("parts", [3, pytest.param(8, marks=pytest.mark.full)])
def test_tasks_that_are_killed_at_random_leave_the_answers_of_one_that_was_not(generation, parts):
    alone, several = generation(), generation(parts)
    alone.finish(0)
    draw = random.Random(parts)

    ranks = [several.begin(index) for index in range(parts)]
    for kills in range(1, 4):
        wait_until(
            lambda kills=kills: (
                several.lines >= kills or all(rank.poll() is not None for rank in ranks)
            )
        )
        victim = draw.randrange(parts)
        ranks[victim].kill()
        ranks[victim].wait(PATIENCE)
        ranks[victim] = several.begin(victim)
    for rank in ranks:
        rank.wait(PATIENCE)

    assert several.answers == alone.answers
    assert len(alone.answers) == 3 * QUESTIONS
    assert several.results | {"seconds": 0} == alone.results | {"seconds": 0}
    for index in range(parts):
        digest = specs.digest(several.tasks[index].spec)
        assert done_markers.is_done(several.run, "generate", index, digest)


def test_the_results_count_what_was_not_answered_and_show_the_first_prompt(generation):
    made = generation(max_tokens=8)
    made.finish(0)
    results, questions = made.results, list(read_lines(made.folder / "questions.jsonl"))

    assert (results["n"], results["generations"]) == (QUESTIONS, 3 * QUESTIONS)
    assert results["first_prompt"].startswith("<|im_start|>question\n")
    assert results["first_prompt"].endswith("<|im_end|>\n<|im_start|>answer\n")
    assert results["cut_off"] == sum(answer[4]["finish"] == "length" for answer in made.answers)
    assert [item["id"] for item in questions] == [f"q{n}" for n in range(QUESTIONS)]
    assert results["unparsable"] == sum(item["predicted"] is None for item in questions)
    assert results["backend"][0]["backend"] == "transformers"


def test_a_finished_score_is_not_computed_again_and_a_lost_file_is_written_again(generation):
    made = generation(mode="cot", samples=1, temperature=0.0, batch_size=4)
    made.finish(0)
    results, lines = made.results, made.lines
    (made.folder / "results.json").unlink()

    made.finish(0)

    assert made.results == results
    assert made.lines == lines


def test_a_stop_request_keeps_what_was_answered(generation):
    made = generation(batch_size=3, samples=1, mode="cot", temperature=0.0)
    rank = made.begin(0)
    wait_until(lambda: made.lines > 0 or rank.poll() is not None)
    rank.send_signal(signal.SIGTERM)
    code = rank.wait(PATIENCE)

    kept = made.answers
    made.finish(0)

    assert code in (0, STOPPED)
    assert kept
    assert [answer for answer in made.answers if answer in kept] == kept


def test_prompts_longer_than_the_model_lose_their_beginning_and_are_counted(generation):
    made = generation(mode="cot", samples=1, temperature=0.0, max_tokens=CONTEXT - 40)

    output = made.finish(0)

    assert made.results["truncated"] == QUESTIONS
    assert f"{QUESTIONS} of {QUESTIONS} prompts had more tokens than the model reads" in output


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"max_tokens": CONTEXT}, "the model reads 512 tokens"),
        ({"folder": "export-elsewhere"}, "no exported model"),
    ],
)
def test_what_cannot_be_generated_is_one_sentence(generation, fields, message):
    made = generation(**fields)
    rank = made.begin(0)

    output, _ = rank.communicate(timeout=PATIENCE)

    assert rank.returncode == 2
    assert message in output


@pytest.mark.parametrize("template", ["", "code"])
def test_questions_for_a_physician_are_answered_without_a_score(generation, template: str) -> None:
    place = "evaluations/safety/last/answers"
    fields = {"kind": "safety", "path": str(OWN), "mode": "answers", "output_dir": place}
    made = generation(**fields, template=template, samples=1, temperature=0.0, limit=3)

    made.finish(0)

    answers = safety.parsed(read_lines(made.folder / safety.ANSWERS))
    assert len(answers) == 3
    assert all(one.prompt and one.theme and one.text for one in answers)
    assert not (made.folder / "results.json").exists()
    ((name, shown),) = scores.answers(made.run, with_run=False)
    assert (name, shown) == ("last", answers)


def test_a_judge_grades_the_answers_and_compares_them_in_both_orders(
    generation, exported, tmp_path
) -> None:
    conversations = tmp_path / "health.jsonl"
    criteria = [{"criterion": f"Is {word}.", "points": 1, "tags": []} for word in ("a", "b")]
    turns = [{"role": "user", "content": "Is it bad?"}]
    records = [{"prompt_id": f"p{n}", "prompt": turns, "rubrics": criteria} for n in range(3)]
    conversations.write_text("".join(json.dumps(one) + "\n" for one in records))
    place = "evaluations/health/last/answers"
    fields = {"path": str(conversations), "mode": "answers", "output_dir": place, "samples": 1}
    made = generation(**fields, kind="healthbench", temperature=0.0, max_tokens=4)
    made.finish(0)
    answers = list(read_lines(made.folder / safety.ANSWERS))
    grades = tmp_path / "grades.jsonl"
    grade = {"prompt_id": "p0", "criterion": 0, "grade": True, "sha256": answers[0]["sha256"]}
    grades.write_text(json.dumps(grade) + "\n")
    spec = JudgeSpec(
        benchmark="health",
        path=str(conversations),
        checkpoint="last",
        answers=f"{place}/{safety.ANSWERS}",
        other="",
        other_answers="",
        folder=str(exported),
        grades=str(grades),
        backend="transformers",
        device="cpu",
        tensor=1,
        batch_size=4,
        max_tokens=4,
        temperature=0.5,
        seed=1,
        output_dir="evaluations/health/last/judged",
        parts=2,
    )
    pairs = replace(
        spec,
        other="health/last",
        other_answers=spec.answers,
        output_dir="evaluations/health/last/judged-against-health-last",
        parts=1,
    )
    specifications = [spec, replace(spec, part=1), pairs]
    tasks = [
        replace(made.tasks[0], stage="judge", index=n, spec=each)
        for n, each in enumerate(specifications)
    ]
    for task in tasks:
        write_json(made.run.spec("judge", task.index), specs.to_json(task))
    judge = replace(made, tasks=tasks)

    for task in tasks:
        judge.finish(task.index)

    results = judge.results
    assert (results["verdicts"], results["unparsable"], results["unscored"]) == (6, 6, 3)
    assert (results["score"], results["human"]["n"]) == (None, 0)
    assert results["truncated"] == 6  # the model reads 512 bytes
    assert results["judge"]["temperature"] == 0.5
    weights = {path.name: sha256(path) for path in exported.glob("*.safetensors")}
    assert weights
    assert results["judge"]["files"].items() >= weights.items()
    assert judge.answers[0][4]["finish"] in ("stop", "length")
    compared = read_json(made.run.path(pairs.output_dir) / "results.json")
    assert (compared["verdicts"], compared["n"], compared["unscored"]) == (6, 0, 3)
    assert [item["other"] for item in judged.of_run(made.run)] == ["", "health/last"]
    assert scores.of_run(made.run) == []
