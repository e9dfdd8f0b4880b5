"""The files of a corpus in a run directory. Standard library only."""

from __future__ import annotations

CORPUS = "corpus"
"""The folder in the run."""

MANIFEST = "manifest.json"
MANIFEST_PATH = f"{CORPUS}/{MANIFEST}"

SOURCES = "sources.jsonl"
"""The list of source files beside the manifest."""

SHARD_FIELDS = ("path", "documents", "bytes", "sha256")
"""What the manifest has of each shard."""

TAKEN_DOWN = "taken_down"
"""Key of the manifest with the documents that were removed, and of their number in its counts."""

DROPPED, REJECTED, CONTAMINATION = ASIDE = (
    "dropped.jsonl",
    "rejected.jsonl",
    "contamination.jsonl",
)
"""Files beside the manifest: some dropped documents of each reason, all bad records, and the
questions of benchmarks that were found. A piece and a shard have their own until then.
"""
