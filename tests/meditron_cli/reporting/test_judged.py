"""Tables of judged answers, printed from what the stage `judge` writes of stored verdicts."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from jobs.contract import specs
from jobs.contract.files import write_json
from jobs.contract.stage_specs import JUDGE, JudgeSpec
from jobs.evaluation.items import Answer
from jobs.evaluation.safety import ANSWERS, text_digest
from jobs.judging import judge_work
from jobs.judging.judge_model import JudgeModel
from jobs.runtime.context import Context
from jobs.stages import judge

from ...byte_tokenizer import write_byte_tokenizer
from ...conftest import Bench
from ...jobs.conftest import Workbench
from ...jobs.questions.published import write_lines

CONVERSATIONS = 4
RUBRICS = [
    {"criterion": "Asks since when", "points": 3, "tags": []},
    {"criterion": "Is rude", "points": -1, "tags": []},
]
REPLIES = {"last": "Since when?", "500": "Go away."}
BETTER = '{"reason": "r", "better": %d}'


def place(model: str) -> str:
    """Return the folder of a model's replies."""
    return f"evaluations/health/{model}/answers"


def honest(prompt: str) -> str:
    """Judge by the words: of two replies the one that asks is better; only the other is rude."""
    if "### Reply 1" in prompt:
        return BETTER % (1 if f"### Reply 1\n{REPLIES['last']}" in prompt else 2)
    return "yes" if ("Is rude" in prompt) == (REPLIES["500"] in prompt) else "no"


def first_of_two(prompt: str) -> str:
    """Prefer the first place, and say nothing about rudeness."""
    return BETTER % 1 if "### Reply 1" in prompt else "hm" if "Is rude" in prompt else "yes"


@pytest.fixture
def judged(meditron: Bench, finish: Callable[..., None]) -> Callable[..., None]:
    """Return what judges two models' replies: of each by rubrics, and of both as a pair.

    The run has a submitted pipeline and exact scores of the benchmark ``quiz``.
    """
    assert meditron.submit().exit_code == 0
    run, folder = meditron.run(), meditron.folder / "wise"
    finish(run, "evaluate", 0, 1)
    folder.mkdir()
    settings = {"max_position_embeddings": 4096, "eos_token_id": 256}
    (folder / "config.json").write_text(json.dumps(settings))
    write_byte_tokenizer(folder / "tokenizer.json")
    turns = [{"role": "user", "content": "Is it bad?"}]
    names = [f"p{number}" for number in range(CONVERSATIONS)]
    records = [{"prompt_id": name, "prompt": turns, "rubrics": RUBRICS} for name in names]
    write_lines(meditron.folder / "health.jsonl", *records)
    for model, text in REPLIES.items():
        asked = {"theme": "", "prompt": "Is it bad?", "text": text, "finish": "stop"}
        run.path(place(model)).mkdir(parents=True)
        write_lines(
            run.path(f"{place(model)}/{ANSWERS}"), *({"id": name} | asked for name in names)
        )
    exact = {"benchmark": "quiz", "checkpoint_step": 600, "mode": "top-token", "accuracy": 0.75}
    exact |= {"ci95": [0.7, 0.8], "chance": 0.25, "n": 200, "p_value": 1e-9}
    write_json(run.path("evaluations/quiz/last/results.json"), exact)

    def work(say: Callable[[str], str], grades: Path | None = None, temperature: float = 0) -> None:
        alone = JudgeSpec(
            benchmark="health",
            path=str(meditron.folder / "health.jsonl"),
            checkpoint="last",
            answers=f"{place('last')}/{ANSWERS}",
            other="",
            other_answers="",
            folder=str(folder),
            grades=str(grades or ""),
            backend="transformers",
            device="cpu",
            tensor=1,
            batch_size=4,
            max_tokens=64,
            temperature=temperature,
            seed=1,
            output_dir="evaluations/health/last/judged",
        )
        second = f"{place('500')}/{ANSWERS}"
        pair = {"other": "health/500", "other_answers": second}
        tasks = [
            alone,
            replace(
                alone, checkpoint="500", answers=second, output_dir="evaluations/health/500/judged"
            ),
            replace(alone, **pair, output_dir="evaluations/health/last/judged-against-health-500"),
        ]
        for index, spec in enumerate(tasks):
            give_verdicts(Context(run, Workbench(run).task(JUDGE, spec, index), 1, 0, 1, 0), say)

    return work


def give_verdicts(context: Context, say: Callable[[str], str]) -> None:
    """Store a verdict on each question of a task, then run the task."""
    spec: Any = context.task.spec
    work = judge_work.plan(context, JudgeModel.read(Path(spec.folder), lambda: None)).work
    payload = {"finish": "stop", "tokens": [], "logprob": 0.0, "by": {"backend": "test"}}
    verdicts = [
        Answer(*key, work.expected[key], {"text": say(prompt.text), **payload})
        for prompt in work.prompts
        for key in prompt.keys(1)
    ]
    work.store.append(verdicts, 1.0)
    judge.run(context)


def tables_of(meditron: Bench) -> dict[str, list[list[str]]]:
    """Return the rows of the two tables of judged answers, and of all others together."""
    shown = meditron("report", meditron.run().name)
    assert shown.exit_code == 0, shown.stderr
    found: dict[str, list[list[str]]] = {"rubrics": [], "pairs": [], "exact": []}
    for part in shown.stdout.split("\n\n"):
        title, *lines = part.splitlines()
        kind = title.removeprefix("judged by ").removeprefix("judged ").split()[0]
        rows = [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in lines]
        found[kind if title.startswith("judged ") else "exact"] += rows[1:]
    return found


def people(folder: Path, *met: bool) -> Path:
    """Write grades of the first model's replies by the first criterion, and of one pair that lies
    in the other order.
    """
    digests = [text_digest(text) for text in (REPLIES["500"], REPLIES["last"])]
    lines = [
        {"prompt_id": f"p{number}", "criterion": 0, "grade": grade, "sha256": digests[1]}
        for number, grade in enumerate(met)
    ]
    pairs = [{"prompt_id": "p0", "pair": digests, "grade": 2}]
    write_lines(folder / "grades.jsonl", *lines, *pairs)
    return folder / "grades.jsonl"


def test_judged_answers_are_printed_apart_from_exact_scores(
    judged: Callable[..., None], meditron: Bench
) -> None:
    judged(honest, temperature=0.5)

    tables = tables_of(meditron)
    found = json.loads(meditron("report", meditron.run().name, "--json").stdout)

    digest = found["judged"][0]["judge"]["sha256"][:8]
    said = [f"wise {digest}, T=0.5", "judge not validated", "-"]
    assert tables["rubrics"] == [
        ["health", "500", "0.0%", "0.0% to 0.0%", "4", *said],
        ["health", "last", "100.0%", "100.0% to 100.0%", "4", *said],
    ]
    assert tables["pairs"] == [["health", "last", "health/500", "4/0/0", "0.12", *said]]
    assert "health" not in [row[0] for row in tables["exact"] if row]
    assert [score["benchmark"] for score in found["evaluations"]] == ["quiz"]
    assert [score["benchmark"] for score in found["judged"]] == ["health"] * 3
    assert found["judged"][0]["judge"].keys() >= {"name", "sha256", "prompt_sha256", "temperature"}


def test_a_preference_that_follows_the_place_is_none_and_verdicts_that_lack_are_counted(
    judged: Callable[..., None], meditron: Bench
) -> None:
    judged(first_of_two)

    tables = tables_of(meditron)

    (pair,) = tables["pairs"]
    assert (pair[3], pair[4], pair[-1]) == ("0/0/4", "1", "4 by place")
    assert [row[-1] for row in tables["rubrics"]] == ["4 of 8 verdicts unparsable"] * 2


def test_the_agreement_with_people_is_printed_for_the_answers_that_they_graded(
    judged: Callable[..., None], meditron: Bench
) -> None:
    judged(honest, people(meditron.folder, True, True, False))

    tables = tables_of(meditron)

    assert [row[6] for row in tables["rubrics"]] == ["judge not validated", "kappa 0.00 (3 grades)"]
    assert [row[6] for row in tables["pairs"]] == ["kappa undefined (1 grade)"]


def test_verdicts_of_a_task_whose_settings_changed_are_no_longer_printed(
    judged: Callable[..., None], meditron: Bench
) -> None:
    judged(honest)
    path = meditron.run().spec(JUDGE, 2)
    task = specs.task_from_json(json.loads(path.read_text()))
    changed: Any = replace(task.spec, temperature=1.0)  # type: ignore[call-arg]

    write_json(path, specs.to_json(replace(task, spec=changed)))

    tables = tables_of(meditron)
    assert (len(tables["rubrics"]), tables["pairs"]) == (2, [])
