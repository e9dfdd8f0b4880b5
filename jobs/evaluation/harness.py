"""Questions as lm-evaluation-harness puts them: its task files, with our questions for documents.

lm-eval's tasks name data sets on the hub, some with loading scripts that current ``datasets``
refuses (``bigbio/pubmed_qa``). Here a task gets the questions of a local file in the schema of its
own documents; prompt, options and the layout of few-shot examples are lm-eval's, the scoring is the
same as everywhere. Nothing is downloaded.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from tempfile import gettempdir
from typing import Any

from jobs.contract.corpus.benchmark_files import why_not_harness
from jobs.contract.errors import TaskError
from jobs.evaluation.likelihood_prompts import Put, TextPrompts
from jobs.questions.question import LETTERS, Question

Document = dict[str, Any]


def pubmedqa(question: Question) -> Document:
    return {
        "CONTEXTS": list(question.context),
        "QUESTION": question.stem,
        "final_decision": question.choices[question.answer],
    }


def medmcqa(question: Question) -> Document:
    options = zip(("opa", "opb", "opc", "opd"), question.choices, strict=True)
    return {"question": question.stem, **dict(options), "cop": question.answer}


def medqa(question: Question) -> Document:
    endings = {f"ending{place}": choice for place, choice in enumerate(question.choices)}
    return {"sent1": question.stem, **endings, "label": question.answer}


def mmlu(question: Question) -> Document:
    return {
        "question": question.stem,
        "choices": list(question.choices),
        "answer": question.answer,
    }


def headqa(question: Question) -> Document:
    answers = [{"aid": n, "atext": choice} for n, choice in enumerate(question.choices, 1)]
    return {"qtext": question.stem, "ra": question.answer + 1, "answers": answers}


def med_concepts_qa(question: Question) -> Document:
    """Join question and options, as the published field has them."""
    options = (
        f"{letter}. {choice}" for letter, choice in zip(LETTERS, question.choices, strict=False)
    )
    text = "\n".join([f"Question: {question.stem}", *options])
    return {"question": text, "answer_id": LETTERS[question.answer]}


SCHEMAS: dict[str, tuple[str, Callable[[Question], Document]]] = {
    "pubmedqa": ("pubmedqa/pubmedqa.yaml", pubmedqa),
    "medmcqa": ("medmcqa/medmcqa.yaml", medmcqa),
    "medqa4": ("medqa/medqa.yaml", medqa),
    "mmlu": ("mmlu/default/mmlu_{subject}.yaml", mmlu),
    "headqa": ("headqa/headqa_en.yaml", headqa),
    "med_concepts_qa": ("med_concepts_qa/med_concepts_qa_{subject}.yaml", med_concepts_qa),
}
"""By kind of benchmark: the file of the task among lm-eval's, and its documents."""
_MMLU = """
abstract_algebra anatomy astronomy business_ethics clinical_knowledge college_biology
college_chemistry college_computer_science college_mathematics college_medicine college_physics
computer_security conceptual_physics econometrics electrical_engineering elementary_mathematics
formal_logic global_facts high_school_biology high_school_chemistry high_school_computer_science
high_school_european_history high_school_geography high_school_government_and_politics
high_school_macroeconomics high_school_mathematics high_school_microeconomics
high_school_physics high_school_psychology high_school_statistics high_school_us_history
high_school_world_history human_aging human_sexuality international_law jurisprudence
logical_fallacies machine_learning management marketing medical_genetics miscellaneous
moral_disputes moral_scenarios nutrition philosophy prehistory professional_accounting
professional_law professional_medicine professional_psychology public_relations security_studies
sociology us_foreign_policy virology world_religions
"""
SUBJECTS = {
    "mmlu": frozenset(_MMLU.split()),
    "med_concepts_qa": frozenset(
        f"{vocabulary}_{level}"
        for vocabulary in ("atc", "icd9cm", "icd9proc", "icd10cm", "icd10proc")
        for level in ("easy", "medium", "hard")
    ),
}
"""The subjects that have a task of their own, of kinds whose tasks are one per subject."""


def require_tasks(kind: str, questions: Iterable[Question]) -> None:
    """Refuse questions of which lm-eval has no task for a subject.

    Raises:
        TaskError: naming the subject.
    """
    subjects = SUBJECTS.get(kind)
    for question in questions if subjects else ():
        if subjects and question.split == "test" and question.subject not in subjects:
            raise TaskError(
                f"lm-eval has no task for the subject {question.subject!r}",
                "remove `harness` from `modes`, or name those to score in `subjects`",
            )


class HarnessPrompts(TextPrompts):
    """The prompts of one benchmark as lm-eval makes them."""

    def __init__(self, kind: str) -> None:
        """Load lm-eval.

        Raises:
            TaskError: lm-eval has no task for questions of this kind.
        """
        if reason := why_not_harness(kind):
            hint = f"mode harness scores {', '.join(SCHEMAS)}; remove it from `modes`"
            raise TaskError(reason, hint)
        keep_to_itself(Path(gettempdir()))
        self._file, self._document = SCHEMAS[kind]
        self._of_subject = cache(self._load)

    def put(self, question: Question, examples: Sequence[Question]) -> Put:
        """Return a question behind worked examples."""
        document = self._document(question)
        task = self._of_subject(question.subject if "{subject}" in self._file else "")
        task.sampler.shown = [self._document(example) for example in examples]
        text = str(task.fewshot_context(document, len(examples)))
        return Put(question, text, tuple(task.doc_to_choice(document)))

    def _load(self, subject: str) -> Any:
        import datasets
        import lm_eval
        from lm_eval.api.samplers import ContextSampler
        from lm_eval.api.task import ConfigurableTask
        from lm_eval.tasks._yaml_loader import load_yaml

        class Given(ContextSampler):  # type: ignore[misc]
            """The examples that are set as ``shown``."""

            def sample(self, n: int, *unused: Any, **more: Any) -> list[Document]:
                del unused, more
                shown: list[Document] = self.shown[:n]
                return shown

        logging.getLogger("lm_eval").setLevel(logging.ERROR)
        path = Path(lm_eval.__file__).parent / "tasks" / self._file.format(subject=subject)
        config = {
            key: value
            for key, value in load_yaml(path).items()
            if key not in ("tag", "group", "task_list")
        }
        document = self._document(blank(subject))
        splits = dict.fromkeys(
            ("train", "validation", "test", "dev"), datasets.Dataset.from_list([document])
        )
        config["custom_dataset"] = lambda **_: splits
        config["fewshot_config"] = {"sampler": Given, "samples": [document]}
        return ConfigurableTask(config=config)


def blank(subject: str) -> Question:
    """Return a question that lm-eval may look at while it loads a task."""
    return Question("", "", (), ("yes", "no", "maybe", "?"), 0, "test", subject, "letters")


def keep_to_itself(scratch: Path) -> None:
    """Keep the Hugging Face libraries out of the home folder and quiet.

    They read these variables at import, so call this before the first import.
    """
    os.environ.update(
        HF_HOME=str(scratch / "huggingface"),
        LM_HARNESS_CACHE_PATH=str(scratch / "harness"),
        TOKENIZERS_PARALLELISM="false",
        TQDM_DISABLE="1",
    )
