"""Train the sample's tokenizer and write it beside this file, after a change of the corpus.

    python -m meditron_cli.sample.train_tokenizer

For developers: it needs the ``tokenizers`` library, and its result is shipped. Byte-level BPE
without a prefix space: every text can be encoded, and decodes to itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from meditron_cli.sample import corpus, facts, generate

if TYPE_CHECKING:
    from tokenizers import Tokenizer

VOCABULARY = 4096
SPECIAL_TOKENS = ("<EOD>", "<PAD>")


def train(texts: Iterable[str]) -> Tokenizer:
    """Learn a byte-level BPE of ``VOCABULARY`` entries, special tokens included, from texts."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def main() -> None:
    texts = (record["text"] for record in corpus.documents(facts.load(), generate.SEED))
    train(texts).save(str(Path(__file__).with_name("tokenizer.json")), pretty=False)


if __name__ == "__main__":
    main()
