"""The card of an exported model, README, made from a run's records. Pure; no I/O.

The header is YAML with the keys that the Hugging Face hub reads (its documentation, "Model Cards").
A fact without a record is shown as not recorded.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from jobs.contract.stage_specs import ModelSpec, TrainingSpec, VocabularySpec
from jobs.contract.units import plural
from jobs.conversion.run_facts import Corpus, Cost, Losses, RunFacts, Score

UNKNOWN = "not recorded"

HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
"""``ORG/NAME``, a name on the hub; a path of a folder begins with ``/``."""

RANDOM = "random"

NOTICE = """\
**This is not a medical device.** The model completes text. It has no clinical validation, it can be
wrong, outdated, biased or harmful, and it does not know when it is. Do not use it for diagnosis,
treatment or any other decision about a person's health, and do not deploy it without the tests, the
supervision and the approvals that such a use requires."""

PROMPT = """\
Question: Lack of which vitamin causes scurvy?
Answer: Vitamin C

Question: Which organ produces insulin?
Answer:"""
"""One worked example, then a question: a base model continues the pattern, where an instruction
would be continued as text."""

END = "<|im_end|>"
"""Ends the turns of a finetuned model."""

TURNS = """\
<|im_start|>question
Which organ produces insulin?<|im_end|>
<|im_start|>answer
"""

USE = f'''\
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = "."  # this folder
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
prompt = """{PROMPT}"""
tokens = tokenizer(prompt, return_tensors="pt")
output = model.generate(**tokens, max_new_tokens=16, do_sample=False)[0]
answer = tokenizer.decode(output[tokens["input_ids"].shape[1] :], skip_special_tokens=True)
print(answer.strip().split("\\n")[0])
'''

CITATION = """\
@misc{chen2023meditron70b,
  title={MEDITRON-70B: Scaling Medical Pretraining for Large Language Models},
  author={Zeming Chen and Alejandro Hernández-Cano and Angelika Romanou and Antoine Bonnet and
    Kyle Matoba and Francesco Salvi and Matteo Pagliardini and Simin Fan and Andreas Köpf and
    Amirkeivan Mohtashami and Alexandre Sallinen and Alireza Sakhaeirad and Vinitra Swamy and
    Igor Krawczuk and Deniz Bayazit and Axel Marmet and Syrielle Montariol and
    Mary-Anne Hartley and Martin Jaggi and Antoine Bosselut},
  year={2023},
  eprint={2311.16079},
  archivePrefix={arXiv},
  primaryClass={cs.CL}
}"""

VERIFICATION = ("<!-- verification -->", "<!-- end of verification -->")
"""Lines around the figures of a verification."""


@dataclass(frozen=True)
class CardInput:
    """An exported model: its records and its settings."""

    facts: RunFacts
    model: ModelSpec
    vocabulary: VocabularySpec
    step: int
    tokens: int
    """Trained on, up to the step."""
    parameters: int
    """Values in the exported files."""
    dtype: str
    """Of the exported tensors, as torch names it."""
    origin: Mapping[str, Any]
    """Of the checkpoint's record."""
    license: str
    """Identifier on the hub; empty where it is not recorded."""
    languages: Sequence[str]
    """ISO 639 codes."""
    digests: Mapping[str, str]
    """By the name of what was digested; an empty one was not recorded."""
    verify_command: str
    """Typed in the folder of the export."""
    replaced: str = ""
    """Part of the tokenizer that transformers 5 replaces, if any."""
    finetuned: str = ""
    """Name of the finetuned model; empty for one of pretraining."""
    grown: Sequence[str] = ()
    """Tokens that finetuning has added behind the vocabulary."""

    @property
    def end_token(self) -> str:
        """Return the token that ends a generation."""
        return END if self.finetuned else self.vocabulary.eos_token


def render(card: CardInput) -> str:
    """Return the text of the card."""
    facts = card.facts
    sections = [
        header(card),
        f"# {facts.name}, {name_of(card)}step {card.step}",
        introduction(card),
        "## Not a medical device",
        NOTICE,
        "## Use",
        use(card),
        "## Model",
        table(model_rows(card)),
        "## Data",
        table(data_rows(facts.corpus, card)),
        "## Training",
        training(card),
        "## Evaluation",
        evaluation(facts.scores, card.step),
        "## Verification",
        verification_section(f"Not verified yet. In this folder: `{card.verify_command}`"),
        "## Provenance",
        table(provenance_rows(card)),
        "## Citation",
        "The method is that of MEDITRON ([arXiv:2311.16079](https://arxiv.org/abs/2311.16079)):",
        f"```bibtex\n{CITATION}\n```",
    ]
    return "\n\n".join(sections) + "\n"


def header(card: CardInput) -> str:
    """Return the YAML header. A JSON text is a YAML text, which spares an escape of our own."""
    base = base_name(card.origin)
    entries: dict[str, Any] = {
        "license": card.license or "unknown",
        **({"base_model": base} if HUB_NAME.fullmatch(base) else {}),
        **({"language": list(card.languages)} if card.languages else {}),
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["medical", "meditron"],
    }
    lines = [f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in entries.items()]
    return "\n".join(["---", *lines, "---"])


def base_name(origin: Mapping[str, Any]) -> str:
    """Return the base model by its name on the hub without revision, else by its folder's name, or
    ``random``; empty where it is not recorded.
    """
    weights = str(origin.get("weights") or "")
    if weights.startswith(("/", ".", "~")):
        return PurePath(weights).name
    return weights.partition("@")[0]


def name_of(card: CardInput) -> str:
    """Return the beginning of a clause about a finetuned model: its name."""
    return f"finetuned model {card.finetuned}, " if card.finetuned else ""


def introduction(card: CardInput) -> str:
    """Return what the model is, in a paragraph."""
    base = base_name(card.origin)
    start = {"": "weights of unrecorded origin", RANDOM: "random weights"}.get(base, f"{base}")
    if card.finetuned:
        step = (card.origin.get("start") or {}).get("step")
        trained = f" trained further for {step:,} steps" if step else ""
        rows = count(card.facts.corpus.documents if card.facts.corpus else None)
        return (
            f"A language model exported by meditron, finetuned on the questions of one benchmark. "
            f"It was finetuned from {start}{trained}, for {card.step:,} steps on {rows} questions "
            "with their answers. It answers questions in the form it was taught, as below."
        )
    if card.step == 0:
        made = f"It is {start}, not trained further."
    else:
        made = f"It was trained from {start} for {card.step:,} steps on {card.tokens:,} tokens."
    return (
        f"A base language model exported by meditron. {made} It continues text; it was not taught "
        "to follow instructions or to hold a conversation."
    )


def use(card: CardInput) -> str:
    """Return a program that prints an answer, and what ends a generation."""
    vocabulary, program, note = card.vocabulary, USE, ""
    first_words = "Give the model text to continue. One worked example shows it the pattern:"
    last_words = (
        "At temperature 0 a base model may repeat itself; cut its answer at the first line "
    )
    last_words += "break, as above."
    if card.finetuned:
        program = USE.replace(PROMPT, TURNS)
        first_words = (
            "Ask in the turns of the training; its instruction belongs before the question:"
        )
        last_words = "The answer is the text before it."
    first = f"`{vocabulary.bos_token}`" if vocabulary.bos_token else "no token"
    if card.replaced:
        program = program.replace("AutoTokenizer", "PreTrainedTokenizerFast")
        note = (
            "`AutoTokenizer` of transformers 5 replaces the tokenizer's "
            f"`{card.replaced}` for this type of model, and gives other ids than in training: use "
            "`PreTrainedTokenizerFast`, as above. For programs that take `AutoTokenizer`, copy "
            "`tokenizer.json`, `tokenizer_config.json` and `special_tokens_map.json` to a folder "
            "of their own, and name it as the tokenizer.\n\n"
        )
    return (
        f"{first_words}\n\n"
        f"```python\n{program}```\n\n{note}"
        f"A generation ends with `{card.end_token}`, the end of a document in training is "
        f"`{vocabulary.eod_token}`, and {first} precedes a text. {last_words}"
    )


def model_rows(card: CardInput) -> Iterator[tuple[str, str]]:
    """Yield the properties of the model."""
    model, base = card.model, base_name(card.origin)
    yield "base weights", base or UNKNOWN
    requested = str(card.origin.get("weights") or "").partition("@")[2]
    yield "revision of the base weights", str(card.origin.get("commit") or requested or UNKNOWN)
    yield "licence of the base weights", card.license or UNKNOWN
    yield "parameters", f"{card.parameters:,}"
    yield "tensors", card.dtype
    widths = f"{model.hidden_size:,}, {model.ffn_hidden_size:,}"
    yield "layers, width, feed-forward", f"{model.layers}, {widths}"
    yield "query heads, key-value heads", f"{model.attention_heads}, {model.kv_heads}"
    yield "sequence length in training", f"{model.seq_length:,}"
    size = card.vocabulary.size + len(card.grown)
    added = len(card.vocabulary.added_tokens) + len(card.grown)
    tokens, unused = f"{size:,} tokens, {added} added", model.vocab_size - size
    yield "vocabulary", tokens + (f"; {unused} rows behind them are unused" if unused else "")


def data_rows(corpus: Corpus | None, card: CardInput) -> Iterator[tuple[str, str]]:
    """Yield the properties of the training data."""
    corpus = corpus or Corpus(())
    shown = [f"`{name}`" for name in corpus.sources[:20]]
    rest = len(corpus.sources) - len(shown)
    yield "sources", ", ".join(shown) + (f" and {rest} more" if rest else "") or UNKNOWN
    yield "training documents", count(corpus.documents)
    yield "validation documents", count(corpus.validation_documents)
    yield "training tokens", count(corpus.tokens)
    yield "tokens trained on", f"{card.tokens:,}"
    yield "languages", ", ".join(card.languages) or UNKNOWN


def training(card: CardInput) -> str:
    """Return the recipe and the losses."""
    if card.step == 0:
        return "None: these are the weights before the first step."
    spec = card.facts.training
    recipe = table(recipe_rows(spec)) if spec else f"The recipe is {UNKNOWN}."
    cost = table(cost_rows(card.facts.cost)) if card.facts.cost else ""
    return "\n\n".join(filter(None, (recipe, table(loss_rows(card.facts.losses)), cost)))


def cost_rows(cost: Cost) -> Iterator[tuple[str, str]]:
    """Yield time, price, energy and emissions of the training."""
    found = cost.footprint
    yield "GPU-hours, interrupted attempts included", f"{found.gpu_hours:,.1f}"
    if found.price is not None:
        yield "price of the GPU-hours", f"{found.price:,.2f} {cost.currency}".rstrip()
    if found.kwh is None:
        yield "energy", UNKNOWN
        return
    how = {"counter": "the GPUs' counters", "power": "the GPUs' power over time"}[cost.source]
    overhead = f", a PUE of {cost.pue:g}" if cost.pue else ", GPUs alone"
    rest = f"; {plural(cost.unmeasured, 'attempt')} not measured" if cost.unmeasured else ""
    yield "energy", f"{found.kwh:,.1f} kWh ({how}{overhead}{rest})"
    if found.kg_co2 is not None:
        yield "emissions", f"{found.kg_co2:,.1f} kg CO2 equivalent"


def recipe_rows(spec: TrainingSpec) -> Iterator[tuple[str, str]]:
    """Yield the settings of the training."""
    optimizer, parallel = spec.optimizer, spec.parallel
    betas = f"beta {optimizer.adam_beta1:g} and {optimizer.adam_beta2:g}"
    rest = f"epsilon {optimizer.adam_eps:g}, weight decay {optimizer.weight_decay:g}"
    warmup = f"{optimizer.learning_rate:g} after {optimizer.warmup_steps:,} steps of warm-up"
    cosine = f"a cosine to {optimizer.min_learning_rate:g} at step {optimizer.decay_steps:,}"
    yield "optimizer", f"AdamW, {betas}, {rest}"
    yield "learning rate", f"{warmup}, then {cosine}"
    yield "target", f"{spec.train_steps:,} steps"
    first, *later = spec.starts
    lengths = f"{first.sequence_length:,} tokens"
    for before, start in zip([first, *later], later, strict=False):
        if start.sequence_length != before.sequence_length:
            lengths += f", {start.sequence_length:,} from step {start.first_step + 1:,}"
    yield "batch", f"{spec.global_batch_size:,} sequences of {lengths}"
    yield "gradient clipping", f"{optimizer.clip_grad:g}"
    yield "precision", spec.precision
    yield "tensor x pipeline x data", f"{parallel.tensor} x {parallel.pipeline} x {parallel.data}"
    yield "seed", f"{spec.seed}"


def loss_rows(losses: Losses) -> Iterator[tuple[str, str]]:
    """Yield the losses, in nats per token."""
    yield "training loss (mean of the last 100 steps)", figure(losses.training)
    if losses.first_validation_step != losses.validation_step:
        step = losses.first_validation_step
        yield f"validation loss at step {step:,}", figure(losses.first_validation)
    at = f" at step {losses.validation_step:,}" if losses.validation_step is not None else ""
    yield f"validation loss{at}", figure(losses.validation)


def evaluation(scores: Sequence[Score], step: int) -> str:
    """Return the scores of the model beside those before training."""
    before = {(item.benchmark, item.shots): item for item in scores if item.step == 0}
    mine = [item for item in scores if item.step == step]
    if not mine:
        return f"Scores are {UNKNOWN}: the run had no results for this step when it was exported."
    head = ("benchmark", "shots", "questions", "accuracy", "95 % interval", "baseline")
    rows = []
    for item in mine:
        low, high = item.interval
        row = [
            *(item.benchmark, str(item.shots), f"{item.questions:,}", percent(item.accuracy)),
            *(f"{percent(low)} to {percent(high)}", percent(item.baseline)),
        ]
        if step:
            first = before.get((item.benchmark, item.shots))
            row.append(percent(first.accuracy) if first else UNKNOWN)
        rows.append(row)
    columns = (*head, "before training") if step else head
    return (
        "Multiple choice by log-likelihood of the options, scored by meditron on these weights "
        "before export. The baseline is the accuracy of guessing, or of the commonest answer to "
        f"each question, whichever is larger.\n\n{grid(columns, rows)}"
    )


def provenance_rows(card: CardInput) -> Iterator[tuple[str, str]]:
    """Yield the digests and versions by which the model can be traced."""
    facts = card.facts
    yield "run", f"`{facts.name}`"
    for name, digest in card.digests.items():
        yield f"{name}, SHA-256", f"`{digest}`" if digest else UNKNOWN
    changed = " with uncommitted changes" if facts.has_changes else ""
    yield "commit of meditron", f"`{facts.commit}`{changed}" if facts.commit else UNKNOWN
    versions = ", ".join(f"{name} {number}" for name, number in sorted(facts.versions.items()))
    yield "versions at submission", versions or UNKNOWN


def verification_section(text: str) -> str:
    """Return the part of a card that a later verification replaces."""
    return "\n".join([VERIFICATION[0], text, VERIFICATION[1]])


def with_verification(card: str, text: str) -> str:
    """Return a card with another text about its verification.

    Raises:
        ValueError: the card has no place for it.
    """
    start, end = (card.find(line) for line in VERIFICATION)
    if not 0 <= start < end:
        raise ValueError(f"no line {VERIFICATION[0]!r}, then {VERIFICATION[1]!r}")
    return card[:start] + verification_section(text) + card[end + len(VERIFICATION[1]) :]


def table(rows: Iterator[tuple[str, str]]) -> str:
    """Return properties as a table."""
    return grid(("property", "value"), [list(row) for row in rows])


def grid(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [list(head), ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(cell, line))} |" for line in lines)


def cell(text: str) -> str:
    """Return a text that a table's cell can hold."""
    return text.replace("|", "\\|").replace("\n", " ")


def count(number: int | None) -> str:
    """Return a number with separators."""
    return UNKNOWN if number is None else f"{number:,}"


def figure(number: float | None) -> str:
    """Return a loss."""
    return UNKNOWN if number is None else f"{number:.4f}"


def percent(share: float) -> str:
    """Return a share of 1 in percent."""
    return f"{share * 100:.1f} %"
