"""The tokenizer of a base model, beside its weights: whether a run's tokenizer extends it.

Standard library only, so that the login node can compare both.
"""

from __future__ import annotations

import re
from pathlib import Path

from jobs.contract.files import parse_json
from jobs.contract.stage_specs import VocabularySpec
from jobs.data import sentencepiece_model
from jobs.data.tokenizer_file import TokenTable, read_tokens

MODEL, JSON = "tokenizer.model", "tokenizer.json"
"""Names of the files in a folder of the Hugging Face format."""

TEMPLATE, SETTINGS = "chat_template.jinja", "tokenizer_config.json"
"""Files with the chat template of a model that has one."""
OPEN_BLOCK = re.compile(r"<think>(?!(?:\\n|\s)*</think>)")

TIKTOKEN = re.compile(rb"[A-Za-z0-9+/]+={0,2} \d+\r?\n")
"""A line of tiktoken's ranks: a token in base64, and its number (github.com/openai/tiktoken)."""


def base_tokens(folder: Path) -> TokenTable | None:
    """Read the tokens of a base model; None where its folder has neither a ``tokenizer.json`` nor a
    SentencePiece file.

    A file of tiktoken, as Llama 3 has beside its weights, is not compared.

    Raises:
        ValueError: its file is no tokenizer.
        OSError: a file cannot be read.
    """
    if (folder / JSON).is_file():
        return read_tokens(folder / JSON)
    if not (folder / MODEL).is_file():
        return None
    data = (folder / MODEL).read_bytes()
    try:
        model = sentencepiece_model.read_model(data)
    except ValueError as error:
        if TIKTOKEN.match(data):
            return None
        raise ValueError(f"{MODEL} is neither SentencePiece's nor tiktoken's") from error
    return TokenTable({piece.text: number for number, piece in enumerate(model.pieces)}, {})


def reasons_first(folder: Path) -> bool:
    """Return whether a base model was taught to reason before each answer: its chat template opens
    a block ``<think>`` in front of it and leaves it open, as those of DeepSeek-R1 do. One that
    closes it at once, as for Qwen 3 without reasoning, does not count.

    Raises:
        ValueError: its file is not JSON.
        OSError: a file cannot be read.
    """
    template: object = ""
    if (folder / TEMPLATE).is_file():
        template = (folder / TEMPLATE).read_text(encoding="utf-8")
    elif (folder / SETTINGS).is_file():
        settings = parse_json((folder / SETTINGS).read_bytes())
        template = settings.get("chat_template") if isinstance(settings, dict) else ""
    if isinstance(template, list):  # several, each with a name
        template = " ".join(str(item.get("template")) for item in template)
    before_answer = str(template or "").rpartition("add_generation_prompt")[2]
    return OPEN_BLOCK.search(before_answer) is not None


def base_difference(table: TokenTable, base: TokenTable, vocabulary: VocabularySpec) -> str | None:
    """Return the first token in which a run's tokenizer, without its added tokens, differs from
    that of the base model; None if it extends it.
    """
    own = {token: i for token, i in table.ids.items() if token not in vocabulary.added_tokens}
    if own == base.ids:
        return None
    for token, number in sorted(base.ids.items(), key=lambda item: item[1]):
        if own.get(token) != number:
            place = f"has the id {own[token]}" if token in own else "is missing"
            return f"{token!r} {place}, in the base model it has {number}"
    extra = min((number, token) for token, number in own.items() if token not in base.ids)
    return f"the base model has no {extra[1]!r}, which has the id {extra[0]}"
