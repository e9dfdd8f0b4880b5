"""The tokenizer of an export: the set of files with which transformers encodes as our training did.

The class is ``PreTrainedTokenizerFast``, which transformers 4 and 5 both load from
``tokenizer.json`` alone; the class that config.json suggests would rebuild another tokenizer from
the vocabulary. For one type of model version 5 takes that class all the same (``replaced_part``).
Standard library only.
"""

from __future__ import annotations

import json
from typing import Any

from jobs.contract.stage_specs import VocabularySpec
from jobs.data.tokenizer_file import TokenTable, token_table

VOCABULARY_FILE = "tokenizer.json"

NAMED = {
    "pad_token": "<PAD>",
    "cls_token": "<CLS>",
    "sep_token": "<SEP>",
    "mask_token": "<MASK>",
}
"""Roles of transformers, and the tokens with which MEDITRON fills them."""

REPLACED = "qwen2"
"""The model type of those we export whose declared class ``AutoTokenizer`` of transformers 5 does
not use (``MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS`` in models/auto/tokenization_auto.py, 5.24).
"""

QWEN_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How Qwen 2 cuts a text into words (models/qwen2/tokenization_qwen2.py of transformers)."""

QWEN_PARTS: dict[str, Any] = {
    "normalizer": {"type": "NFC"},
    "pre_tokenizer": {
        "type": "Sequence",
        "pretokenizers": [
            {
                "type": "Split",
                "pattern": {"Regex": QWEN_WORDS},
                "behavior": "Isolated",
                "invert": False,
            },
            {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False},
        ],
    },
    "decoder": {"type": "ByteLevel"},
    "model": {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "byte_fallback": False,
        "ignore_merges": False,
    },
}
"""What transformers 5 puts in the place of the parts of a Qwen 2's tokenizer.json."""

QWEN_UNKNOWN = "<|endoftext|>"
"""The unknown token of that class, which it adds where a tokenizer has no such token."""


def replaced_part(content: dict[str, Any], model_type: str) -> str:
    """Return the part of a tokenizer.json that ``AutoTokenizer`` of transformers 5 replaces by
    another, so that ids differ; empty where it gives the ids of the file.

    Args:
        content: the parsed ``tokenizer.json``.
        model_type: of the ``config.json`` beside it.
    """
    if model_type != REPLACED:
        return ""
    different = (name for name, part in QWEN_PARTS.items() if not _agrees(content.get(name), part))
    lacks_unknown = QWEN_UNKNOWN not in token_table(content).ids
    return next(different, "unknown token" if lacks_unknown else "")


def _agrees(found: Any, expected: Any) -> bool:
    """Return whether a part has the expected fields; others do not change ids, and empty ones mean
    none.
    """
    if isinstance(expected, dict):
        return isinstance(found, dict) and all(
            _agrees(found.get(key), value) for key, value in expected.items()
        )
    if isinstance(expected, list):
        pairs = isinstance(found, list) and len(found) == len(expected)
        return pairs and all(map(_agrees, found, expected))
    return bool(found == expected or (not found and not expected))


def exported_files(
    content: dict[str, Any],
    vocabulary: VocabularySpec,
    *,
    context_length: int,
    special_tokens_in_text: bool = False,
) -> dict[str, bytes]:
    """Return the name and content of each tokenizer file of an export.

    A text gets BOS in front where documents of the training had it, and nothing behind.

    Args:
        content: the parsed ``tokenizer.json`` of the run.
        vocabulary: the run's registry.
        context_length: most tokens of a text, for warnings of transformers.
        special_tokens_in_text: whether the name of a special token inside a text becomes that
            token, as in the training; chat templates need it.

    Raises:
        ValueError: not the content of a tokenizer.json.
    """
    table = token_table(content)
    roles = special_roles(content, table, vocabulary)
    added = added_tokens(content, table, roles)
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": context_length,
        "add_bos_token": bool(vocabulary.bos_token),
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],  # version 4 adds token_type_ids
        "split_special_tokens": not special_tokens_in_text,
        **prefix_space(content),
        **roles,
        "added_tokens_decoder": {
            str(entry["id"]): {key: value for key, value in entry.items() if key != "id"}
            for entry in added
        },
    }
    files = {
        VOCABULARY_FILE: tokenizer_json(content, table, vocabulary.bos_token, added),
        "tokenizer_config.json": config,
        "special_tokens_map.json": roles,
    }
    # The vocabulary is on one line: json's faster encoder, written in C, breaks no lines.
    return {
        name: json.dumps(
            value, ensure_ascii=False, indent=None if name == VOCABULARY_FILE else 2
        ).encode()
        + b"\n"
        for name, value in files.items()
    }


def special_roles(
    content: dict[str, Any], table: TokenTable, vocabulary: VocabularySpec
) -> dict[str, str]:
    """Return the token of each role that transformers knows and this vocabulary fills.

    Padding falls back to the end of a generation: batches need some token, and masks hide it.
    """
    roles = {"eos_token": vocabulary.eos_token, "pad_token": vocabulary.eos_token}
    roles |= {role: token for role, token in NAMED.items() if table.special.get(token)}
    if vocabulary.bos_token:
        roles["bos_token"] = vocabulary.bos_token
    unknown = content["model"].get("unk_token")
    if isinstance(unknown, str):
        roles["unk_token"] = unknown
    return dict(sorted(roles.items()))


def special_ids(content: dict[str, Any], vocabulary: VocabularySpec) -> dict[str, int | None]:
    """Return the ids of ``generation_config.json`` by their names there; None for a role that no
    token has.
    """
    table = token_table(content)
    tokens = special_roles(content, table, vocabulary)
    return {
        f"{role}_id": table.ids[tokens[role]] if role in tokens else None
        for role in ("bos_token", "eos_token", "pad_token")
    }


def added_tokens(
    content: dict[str, Any], table: TokenTable, roles: dict[str, str]
) -> list[dict[str, Any]]:
    """Return the added tokens in the order of ids; those with a role are special, entries of the
    model that have one are added, with their own ids.
    """
    entries = {entry["content"]: dict(entry) for entry in content.get("added_tokens") or []}
    for token in roles.values():
        entry = entries.setdefault(
            token,
            {
                "id": table.ids[token],
                "content": token,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
            },
        )
        entry["special"] = True
    return sorted(entries.values(), key=lambda entry: int(entry["id"]))


def tokenizer_json(
    content: dict[str, Any], table: TokenTable, bos: str, added: list[dict[str, Any]]
) -> dict[str, Any]:
    """Return a tokenizer.json that cuts and fills nothing, and puts BOS before a text where the
    registry names one.
    """
    return {
        **content,
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "post_processor": post_processor(bos, table.ids),
    }


def post_processor(bos: str, ids: dict[str, int]) -> dict[str, Any]:
    """Return the template of a text and of a pair of texts."""

    def part(name: str, number: int) -> dict[str, Any]:
        return {name: {"id": "AB"[number], "type_id": number}}

    def sequence(number: int) -> list[dict[str, Any]]:
        start = [{"SpecialToken": {"id": bos, "type_id": number}}] if bos else []
        return [*start, part("Sequence", number)]

    special = {bos: {"id": bos, "ids": [ids[bos]], "tokens": [bos]}} if bos else {}
    return {
        "type": "TemplateProcessing",
        "single": sequence(0),
        "pair": [*sequence(0), *sequence(1)],
        "special_tokens": special,
    }


def prefix_space(content: dict[str, Any]) -> dict[str, bool]:
    """Return ``add_prefix_space`` of the pre-tokenizer where it has one: transformers 4 would set
    it to false otherwise.
    """
    pre_tokenizer = content.get("pre_tokenizer") or {}
    name = "add_prefix_space"
    return {name: pre_tokenizer[name]} if name in pre_tokenizer else {}
