"""Llama 3's ``tokenizer.model``, in the format of tiktoken, and the equal tokenizer.json.

The file holds tokens and their ranks alone. How a text is cut into words, and the special tokens
behind the ranks, are in the code that Meta publishes with it (llama_models/llama3/tokenizer.py of
github.com/meta-llama/llama-models), so that only files with as many ranks as its are read.
"""

from __future__ import annotations

import base64
import binascii
from typing import Any

RANKS, SPECIAL_TOKENS = 128_000, 256

WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

NAMED = (
    "begin_of_text",
    "end_of_text",
    "reserved_special_token_0",
    "reserved_special_token_1",
    "finetune_right_pad_id",
    "step_id",
    "start_header_id",
    "end_header_id",
    "eom_id",
    "eot_id",
    "python_tag",
    "image",
)


def read_ranks(data: bytes) -> dict[bytes, int]:
    """Read the ranks of a file: a line has a token in base64 and its number.

    Raises:
        ValueError: not such a file, or not Llama 3's.
    """
    try:
        rows = [line.split() for line in data.splitlines() if line]
        ranks = {base64.b64decode(token, validate=True): int(rank) for token, rank in rows}
    except (ValueError, binascii.Error) as error:
        raise ValueError("neither a SentencePiece model nor ranks of tiktoken") from error
    if len(ranks) != RANKS:
        raise ValueError(
            f"it has {len(ranks)} ranks of tiktoken, and only Llama 3's {RANKS} are known to be "
            "read so; start from its tokenizer.json"
        )
    return ranks


def special_tokens() -> list[str]:
    """Return the special tokens in the order of their ids, which follow the ranks."""
    reserved = range(2, 2 + SPECIAL_TOKENS - len(NAMED))
    names = [*NAMED, *(f"reserved_special_token_{number}" for number in reserved)]
    return [f"<|{name}|>" for name in names]


def tokenizer_json(ranks: dict[bytes, int]) -> dict[str, Any]:
    """Return the content of the ``tokenizer.json`` that encodes as tiktoken does with the ranks."""
    letters = byte_letters()

    def spelt(token: bytes) -> str:
        return "".join(letters[byte] for byte in token)

    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": number,
                "content": token,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
            for number, token in enumerate(special_tokens(), len(ranks))
        ],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {
                    "type": "Split",
                    "pattern": {"Regex": WORDS},
                    "behavior": "Isolated",
                    "invert": False,
                },
                {
                    "type": "ByteLevel",
                    "add_prefix_space": False,
                    "trim_offsets": True,
                    "use_regex": False,
                },
            ],
        },
        "post_processor": None,
        "decoder": {
            "type": "ByteLevel",
            "add_prefix_space": True,
            "trim_offsets": True,
            "use_regex": True,
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": True,
            "vocab": {spelt(token): rank for token, rank in ranks.items()},
            "merges": [f"{spelt(left)} {spelt(right)}" for left, right in merges(ranks)],
        },
    }


def merges(ranks: dict[bytes, int]) -> list[tuple[bytes, bytes]]:
    """Return the pairs of tokens that merge into a third, in the order of preference: tiktoken
    merges the neighbours whose concatenation has the lowest rank first.
    """
    found = []
    for token in sorted(ranks, key=lambda token: ranks[token]):
        cuts = ((token[:cut], token[cut:]) for cut in range(1, len(token)))
        pairs = [pair for pair in cuts if pair[0] in ranks and pair[1] in ranks]
        found += sorted(pairs, key=lambda pair: (ranks[pair[0]], ranks[pair[1]]))
    return found


def byte_letters() -> dict[int, str]:
    """Return the character that stands for each byte in a vocabulary of bytes: itself where it can
    be printed, else one from 256 on (``bytes_to_unicode`` of github.com/openai/gpt-2).
    """
    shown = [*range(ord("!"), 127), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = (byte for byte in range(256) if byte not in shown)
    return {byte: chr(byte) for byte in shown} | {
        byte: chr(256 + number) for number, byte in enumerate(others)
    }
