"""An encoder of prompts for many rows: gigatoken, where it gives the ids of ``tokenizers``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import orjson

from jobs.contract.stage_specs import TokenizerRef
from jobs.data import tokenizer_file
from jobs.data.tokenizer_file import Encoder
from jobs.prompts.encoding import CONTROL_TOKENS
from jobs.tokenization import engine as engines
from jobs.tokenization.engine import Engine, EngineData


@dataclass(frozen=True)
class FastEncoder(Encoder):
    """An encoder whose texts a fast library encodes."""

    engine: Engine

    @classmethod
    def load_fast(cls, ref: TokenizerRef, wanted: str = engines.AUTO) -> FastEncoder:
        """Read a ``tokenizer.json``, and choose the library.

        Raises:
            TaskError: as ``Encoder.load`` raises it.
        """
        encoder = Encoder.load(ref)
        content = tokenizer_file.require_content(ref)[1]
        names = [*engines.reserved(content, ref.vocabulary), *CONTROL_TOKENS]
        choice = engines.choose(wanted, data_of(content, ref), names)
        values = {field.name: getattr(encoder, field.name) for field in fields(Encoder)}
        return cls(**values, engine=choice.engine)

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of each text, without BOS and ends.

        Raises:
            EngineDiffers: gigatoken gave other ids than ``tokenizers``, or failed.
        """
        encoded = self.engine.encode(list(texts))
        ids, end = encoded.ids.tolist(), 0
        rows = []
        for length in encoded.lengths.tolist():
            rows.append(ids[end : end + length])
            end += length
        return rows


def data_of(content: dict[str, Any], ref: TokenizerRef) -> EngineData:
    """Return what texts of prompts are encoded with: names of special tokens, of roles and of the
    template stay text, names of markup become tokens, as in ``Encoder``.
    """
    vocabulary = ref.vocabulary
    roles = {vocabulary.eod_token, vocabulary.bos_token, vocabulary.eos_token, *CONTROL_TOKENS}
    added = [
        entry | {"special": bool(entry.get("special")) or entry["content"] in roles}
        for entry in content.get("added_tokens") or []
    ]
    base = {**content, "truncation": None, "padding": None, "post_processor": None}
    plain = [entry for entry in added if not entry["special"]]
    return EngineData(
        orjson.dumps({**base, "added_tokens": added}),
        orjson.dumps({**base, "added_tokens": plain}),
        special_tokens_in_text=False,
    )
