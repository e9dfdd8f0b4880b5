"""PubMed's baseline and updates as one source: the last version of a citation counts."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest

from jobs.contract.files import read_json


@pytest.fixture
def bench(forked: Any) -> Any:
    return forked


def citation(pmid: int, text: str, kind: str = "Journal Article") -> str:
    return (
        f"<PubmedArticle><MedlineCitation><PMID>{pmid}</PMID><Article><ArticleTitle>On {pmid}."
        f"</ArticleTitle><Abstract><AbstractText>{text}</AbstractText></Abstract>"
        f"<PublicationTypeList><PublicationType>{kind}</PublicationType></PublicationTypeList>"
        "</Article></MedlineCitation></PubmedArticle>"
    )


def test_updates_replace_delete_and_retract_what_the_baseline_has(bench: Any) -> None:
    folder = bench.run.root.parent / "pubmed"
    files = {
        "baseline/pubmed26n0001.xml.gz": [
            *(citation(number, f"The first text of {number}.") for number in range(1, 7))
        ],
        "updatefiles/pubmed26n0002.xml.gz": [
            citation(2, "The second text of 2."),
            citation(3, "The text of 3 was retracted.", "Retracted Publication"),
            citation(5, "Short."),
            citation(6, ""),
            citation(7, "", "Retracted Publication"),
            "<DeleteCitation><PMID>4</PMID></DeleteCitation>",
        ],
    }
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        xml = f"<PubmedArticleSet>{''.join(content)}</PubmedArticleSet>"
        (folder / name).write_bytes(gzip.compress(xml.encode(), mtime=0))
    for number in (3, 7):
        (folder / f"PMC{number}.nxml").write_text(
            f"<article><front><article-meta><article-id pub-id-type='pmc'>PMC{number}</article-id>"
            f"<article-id pub-id-type='pmid'>{number}</article-id></article-meta></front>"
            f"<body><p>The full text of {number} does not know that.</p></body></article>"
        )
    bench.curate(folder, drop=("retracted",), shards=1, min_chars=20, validation_fraction=0)

    result = bench.start("curate")

    assert (result.returncode, result.stderr) == (0, "")
    shard = bench.run.path("corpus/train/00000.jsonl").read_text().splitlines()
    assert sorted(json.loads(line)["text"] for line in shard) == [
        "On 1.\nThe first text of 1.",
        "On 2.\nThe second text of 2.",
    ]
    counts = read_json(bench.run.path("corpus/manifest.json"))["counts"]
    assert (counts["in"], counts["kept"], counts["deletion"]) == (14, 2, 1)
    assert (counts["retracted"], counts["length"], counts["empty"]) == (2, 1, 1)
    assert counts["dropped_work"] == 2
    assert (counts["replaced"], counts["removed"]) == (1, 4)
