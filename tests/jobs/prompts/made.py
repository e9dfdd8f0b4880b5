"""Questions of each style, and tokenizers with control tokens."""

from __future__ import annotations

from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

from jobs.data.tokenizer_file import Encoder
from jobs.prompts.instructions import Instruction
from jobs.questions.question import Question

from ...byte_tokenizer import EOD, SIZE, write_byte_tokenizer
from ...model_specs import tokenizer_ref

ASKED = Instruction("Choose one option.", "The answer is:")
REASONED = Instruction("Choose one option, with reasons.", "Think first.")
EXAM = Question(
    id="m1",
    stem="The nerve that lifts the eyelid is",
    context=(),
    choices=("optic", "facial", "oculomotor", "vagus"),
    answer=2,
    split="train",
    subject="Anatomy",
    style="letters",
    explanation="The third nerve supplies the levator",
)
ABSTRACT = Question(
    id="11",
    stem="Does it help?",
    context=("It was given to mice.", "They lived on (p<0.05)."),
    choices=("yes", "no", "maybe"),
    answer=0,
    split="train",
    subject="",
    style="words",
    explanation="It helped in mice",
)
QUIZ = Question(
    id="q1",
    stem="Which vitamin prevents scurvy?",
    context=(),
    choices=("vitamin A", "vitamin C"),
    answer=1,
    split="train",
    subject="",
    style="texts",
)


def byte_encoder(folder: Path, *tokens: str) -> Encoder:
    """Return an encoder with a token per byte and these behind them."""
    path = folder / "tokenizer.json"
    write_byte_tokenizer(path, tokens)
    return Encoder.load(tokenizer_ref(str(path), base_size=SIZE + len(tokens)))


def prefix_encoder(folder: Path, *tokens: str) -> Encoder:
    """Return an encoder that puts a blank before each piece of text, as Llama 2's does."""
    path = folder / "tokenizer.json"
    names = [f"<0x{number:02X}>" for number in range(256)]
    letters = ["\u2581", *map(chr, range(33, 127))]
    vocabulary = {name: number for number, name in enumerate([*names, *letters])}
    made = Tokenizer(models.BPE(vocabulary, [], byte_fallback=True))
    made.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    made.add_special_tokens([AddedToken(token, special=True) for token in (EOD, *tokens)])
    made.save(str(path))
    return Encoder.load(tokenizer_ref(str(path), base_size=len(vocabulary)))


def merging_encoder(folder: Path, *tokens: str) -> Encoder:
    """Return an encoder that joins the end of a line with what follows."""
    path = folder / "tokenizer.json"
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: number for number, letter in enumerate([*letters, "\u010aA"])}
    made = Tokenizer(models.BPE(vocabulary, [("\u010a", "A")]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(token, special=True) for token in (EOD, *tokens)])
    made.save(str(path))
    return Encoder.load(tokenizer_ref(str(path), base_size=len(vocabulary)))
