"""Tokenizers with the pipelines of published families, on the vocabulary of the sample."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import meditron_cli.sample

SAMPLE = Path(meditron_cli.sample.__file__).with_name("tokenizer.json")
TOKENS = 4096
"""Of the sample."""

LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How tokenizer.json of Llama 3 and OLMo 2 cuts a text into words."""

QWEN = LLAMA_3.replace(r"\p{N}{1,3}", r"\p{N}")
"""As tokenizer.json of Qwen 2, 2.5 and 3 does, which takes digits one by one."""

SPECIAL: dict[str, Sequence[str]] = {
    "llama 3": ("<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"),
    "qwen": ("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
    "olmo 2": ("<|endoftext|>", "<|pad|>"),
}
PLAIN: dict[str, Sequence[str]] = {"qwen": ("<tool_call>", "</tool_call>", "<think>")}


def size(family: str) -> int:
    """Return the tokens of a family's tokenizer."""
    return TOKENS + len(SPECIAL[family]) + len(PLAIN.get(family, ()))


def tokenizer_json(family: str) -> dict[str, Any]:
    """Return a base model's tokenizer.json."""
    content = json.loads(SAMPLE.read_text())
    vocabulary = content["model"]["vocab"]
    for token in ("<EOD>", "<PAD>"):  # names of tokens that runs add
        vocabulary[f"unused {token}"] = vocabulary.pop(token)
    added = [(token, True) for token in SPECIAL[family]]
    added += [(token, False) for token in PLAIN.get(family, ())]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    content["added_tokens"] = [
        {"id": number, "content": token, **flags, "special": special}
        for number, (token, special) in enumerate(added, TOKENS)
    ]
    split = {
        "type": "Split",
        "pattern": {"Regex": QWEN if family == "qwen" else LLAMA_3},
        "behavior": "Isolated",
        "invert": False,
    }
    byte_level = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": False,
        "use_regex": False,
    }
    content["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [split, byte_level]}
    if family == "qwen":
        content["normalizer"] = {"type": "NFC"}
        content["model"] |= {"continuing_subword_prefix": "", "end_of_word_suffix": ""}
        content["post_processor"] = byte_level
    elif family == "llama 3":
        content["model"]["ignore_merges"] = True
        bos = SPECIAL[family][0]
        first = {"SpecialToken": {"id": bos, "type_id": 0}}
        text = {"Sequence": {"id": "A", "type_id": 0}}
        content["post_processor"] = {
            "type": "TemplateProcessing",
            "single": [first, text],
            "pair": [first, text, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {bos: {"id": bos, "ids": [TOKENS], "tokens": [bos]}},
        }
    return content
