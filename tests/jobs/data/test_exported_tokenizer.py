"""The tokenizer of an export under both versions of transformers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, pre_tokenizers

import meditron_cli.sample
from jobs.contract.stage_specs import TokenizerRef, VocabularySpec
from jobs.data.difficult_texts import DIFFICULT, difficult_texts
from jobs.data.exported_tokenizer import exported_files
from jobs.data.tokenizer_file import Encoder

from ...model_specs import vocabulary_spec
from ...transformers_versions import VERSIONS, run

SAMPLE = Path(meditron_cli.sample.__file__).with_name("tokenizer.json")

REPORT = """
import json, sys
from transformers import AutoTokenizer
reports = []
for folder, texts, options in json.load(open(sys.argv[1])):
    tokenizer = AutoTokenizer.from_pretrained(folder, **options)
    reports.append({
        "class": type(tokenizer).__name__,
        "ids": [tokenizer(text)["input_ids"] for text in texts],
        "pair": tokenizer("a", "b")["input_ids"],
        "roles": [tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id],
        "size": len(tokenizer),
        "length": tokenizer.model_max_length,
        "decoded": [tokenizer.decode(tokenizer(text)["input_ids"]) for text in texts],
        "hidden": tokenizer.decode([tokenizer.eos_token_id], skip_special_tokens=True),
    })
json.dump(reports, sys.stdout)
"""


class Case:
    """A tokenizer, its registry, and the folder of its export."""

    def __init__(
        self, folder: Path, source: Path, vocabulary: VocabularySpec, in_text: bool = False
    ) -> None:
        self.folder = folder
        folder.mkdir()
        content = json.loads(source.read_text())
        files = exported_files(
            content, vocabulary, context_length=2048, special_tokens_in_text=in_text
        )
        for name, data in files.items():
            (folder / name).write_bytes(data)
        # the class that transformers takes for such a model, unless told otherwise
        (folder / "config.json").write_text('{"model_type": "llama", "vocab_size": 800}')
        ref = TokenizerRef(str(source), "", vocabulary)
        self.encoder = Encoder.load(ref, special_tokens_in_text=in_text)
        self.texts = difficult_texts(vocabulary.added_tokens)

    def expected(self) -> list[list[int]]:
        bos = [] if self.encoder.bos is None else [self.encoder.bos]
        return [[*bos, *ids] for ids in self.encoder.encode_all(self.texts)]


@pytest.fixture(scope="module")
def cases(
    tmp_path_factory: pytest.TempPathFactory, llama: Path, spm: Path, vocabulary: VocabularySpec
) -> dict[str, Case]:
    root = tmp_path_factory.mktemp("exports")
    base = vocabulary.base_size
    added: dict[str, Any] = {
        "added_tokens": vocabulary.added_tokens,
        "control_tokens": vocabulary.control_tokens,
    }
    spaced = Tokenizer.from_file(str(SAMPLE))
    spaced.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    spaced.enable_truncation(4)
    spaced.enable_padding(length=64)
    spaced.save(str(root / "spaced.json"))
    sample = vocabulary_spec(4096)
    return {
        "meditron": Case(root / "a", llama, vocabulary),
        "bos": Case(root / "b", llama, vocabulary_spec(base, **added, bos_token="<s>")),
        "in text": Case(root / "c", llama, vocabulary, in_text=True),
        "sample": Case(root / "d", SAMPLE, sample),
        "prefix space": Case(root / "e", root / "spaced.json", sample),
    }


@pytest.fixture(scope="module", params=VERSIONS)
def reports(
    request: pytest.FixtureRequest, cases: dict[str, Case], spm: Path, tmp_path_factory: Any
) -> dict[str, dict[str, Any]]:
    """Return what one version makes of every export, and of a bare tokenizer.model."""
    folder = tmp_path_factory.mktemp("asked")
    shutil.copy(spm, folder)
    if request.param == "4.57":  # version 5 would take a class that encodes spaces differently
        (folder / "config.json").write_text('{"model_type": "llama"}')
    asked: list[Any] = [[str(case.folder), case.texts, {}] for case in cases.values()]
    asked.append([str(folder), DIFFICULT, {"add_bos_token": False, "split_special_tokens": True}])
    (folder / "asked.json").write_text(json.dumps(asked))
    found = json.loads(run(request.param, REPORT, str(folder / "asked.json")))
    return dict(zip([*cases, "tokenizer.model"], found, strict=True))


@pytest.mark.parametrize("name", ["meditron", "bos", "in text", "sample", "prefix space"])
def test_transformers_gives_the_ids_of_training(
    name: str, cases: dict[str, Case], reports: dict[str, dict[str, Any]]
) -> None:
    case, report = cases[name], reports[name]

    differing = [
        (text, found, wanted)
        for text, found, wanted in zip(case.texts, report["ids"], case.expected(), strict=True)
        if found != wanted
    ]
    assert differing == []
    assert report["size"] == case.encoder.vocabulary_size
    assert report["length"] == 2048
    assert report["hidden"] == ""


def test_transformers_converts_a_sentencepiece_file_to_the_same_ids(
    cases: dict[str, Case], reports: dict[str, dict[str, Any]]
) -> None:
    assert reports["tokenizer.model"]["ids"] == cases["meditron"].encoder.encode_all(DIFFICULT)


def test_roles_are_those_of_the_registry(reports: dict[str, dict[str, Any]]) -> None:
    eod, pad = 702, 704

    assert reports["meditron"]["roles"] == [None, eod, pad]
    assert reports["bos"]["roles"] == [1, eod, pad]
    assert reports["bos"]["pair"].count(1) == 2
    assert reports["sample"]["roles"] == [None, 0, 1]


def test_literal_control_tokens_follow_the_training(
    cases: dict[str, Case], reports: dict[str, dict[str, Any]]
) -> None:
    at = cases["meditron"].texts.index("a<EOD>b")

    assert 702 not in reports["meditron"]["ids"][at]
    assert 702 in reports["in text"]["ids"][at]


def test_an_export_of_byte_level_text_decodes_to_it(
    cases: dict[str, Case], reports: dict[str, dict[str, Any]]
) -> None:
    assert reports["sample"]["decoded"] == cases["sample"].texts


def test_a_token_that_only_the_model_has_becomes_special(llama: Path) -> None:
    content = json.loads(llama.read_text())
    content["added_tokens"] = [
        entry for entry in content["added_tokens"] if entry["content"] != "</s>"
    ]

    files = exported_files(content, vocabulary_spec(700, eod_token="</s>"), context_length=8)

    entries = json.loads(files["tokenizer.json"])["added_tokens"]
    (end,) = [entry for entry in entries if entry["content"] == "</s>"]
    assert (end["id"], end["special"]) == (2, True)
    config = json.loads(files["tokenizer_config.json"])
    assert config["added_tokens_decoder"]["2"]["content"] == config["eos_token"] == "</s>"
    roles = json.loads(files["special_tokens_map.json"])
    assert roles == {
        "eos_token": "</s>",
        "pad_token": "<PAD>",
        "cls_token": "<CLS>",
        "sep_token": "<SEP>",
        "mask_token": "<MASK>",
        "unk_token": "<unk>",
    }
