"""The tokenizer of an export: the set of files with which transformers encodes as our training did.

The class is ``PreTrainedTokenizerFast``, which transformers 4 and 5 both load from
``tokenizer.json`` alone; the class that config.json suggests would rebuild another tokenizer from
the vocabulary. Standard library only.
"""

from __future__ import annotations

import json
from typing import Any

from jobs.contract.stage_specs import VocabularySpec
from jobs.data.tokenizer_file import token_table

NAMED = {
    "pad_token": "<PAD>",
    "cls_token": "<CLS>",
    "sep_token": "<SEP>",
    "mask_token": "<MASK>",
}
"""Roles of transformers, and the tokens with which MEDITRON fills them."""


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
    roles = special_roles(content, vocabulary)
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
            for entry in added_tokens(content, roles)
        },
    }
    files = {
        "tokenizer.json": tokenizer_json(content, vocabulary, roles),
        "tokenizer_config.json": config,
        "special_tokens_map.json": roles,
    }
    return {
        name: (json.dumps(value, ensure_ascii=False, indent=2) + "\n").encode()
        for name, value in files.items()
    }


def special_roles(content: dict[str, Any], vocabulary: VocabularySpec) -> dict[str, str]:
    """Return the token of each role that transformers knows and this vocabulary fills.

    Padding falls back to the end of a generation: batches need some token, and masks hide it.
    """
    table = token_table(content)
    roles = {"eos_token": vocabulary.eos_token, "pad_token": vocabulary.eos_token}
    roles |= {role: token for role, token in NAMED.items() if table.special.get(token)}
    if vocabulary.bos_token:
        roles["bos_token"] = vocabulary.bos_token
    unknown = content["model"].get("unk_token")
    if isinstance(unknown, str):
        roles["unk_token"] = unknown
    return dict(sorted(roles.items()))


def added_tokens(content: dict[str, Any], roles: dict[str, str]) -> list[dict[str, Any]]:
    """Return the added tokens in the order of ids; those with a role are special, entries of the
    model that have one are added, with their own ids.
    """
    table = token_table(content)
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
    content: dict[str, Any], vocabulary: VocabularySpec, roles: dict[str, str]
) -> dict[str, Any]:
    """Return a tokenizer.json that cuts and fills nothing, and puts BOS before a text where the
    registry names one.
    """
    return {
        **content,
        "truncation": None,
        "padding": None,
        "added_tokens": added_tokens(content, roles),
        "post_processor": post_processor(vocabulary.bos_token, token_table(content).ids),
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
