"""Two examples per command, with which its ``--help`` ends."""

from __future__ import annotations

import click

EXAMPLES = {
    "init": ("meditron init demo", "meditron init mine --from corpus/"),
    "plan": (
        "meditron plan pipeline --cluster local --size tiny",
        "meditron plan pretrain --cluster generic-h100 --size 7b --search",
    ),
    "submit": (
        "meditron submit pipeline --cluster local --size tiny --wait",
        "meditron submit export --run med-7b-3f2a91c0 --set export.step=500",
    ),
    "status": ("meditron status", "meditron status med-7b-3f2a91c0 --watch"),
    "check": (
        "meditron check",
        "meditron check experiment.yaml --cluster local --size tiny",
    ),
    "explain": (
        "meditron explain pretrain.learning_rate --size 7b",
        "meditron explain cluster.gpu_partition.node.gpus --cluster generic-h100",
    ),
    "schema": (
        "meditron schema experiment --output experiment.schema.json",
        "meditron schema cluster",
    ),
    "clusters": ("meditron clusters", "meditron clusters generic-h100 --copy"),
    "fetch": (
        "meditron fetch --cluster clusters/ours.yaml --size 7b --dry-run",
        "meditron fetch --cluster clusters/ours.yaml --size 8b "
        "--set model.weights=Qwen/Qwen3-8B-Base",
    ),
    "tokenizer": (
        "meditron tokenizer build --size 7b --output tokenizer.json",
        "meditron tokenizer build models/llama/tokenizer.model --size 7b --output tokenizer.json",
    ),
    "tokenizer build": (
        "meditron tokenizer build --size 7b --output tokenizer.json",
        "meditron tokenizer build models/llama/tokenizer.model --size 7b --output tokenizer.json",
    ),
    "notify": (
        "meditron notify --cluster clusters/ours.yaml --size 7b --test",
        "meditron notify med-7b-3f2a91c0",
    ),
    "completion": (
        "meditron completion bash",
        "meditron completion fish > ~/.config/fish/completions/meditron.fish",
    ),
    "rehearse": (
        "meditron rehearse --cluster generic-h100 --size 7b",
        "meditron rehearse --cluster generic-h100 --size 7b --config experiment.yaml --keep",
    ),
    "resume": (
        "meditron resume med-7b-3f2a91c0",
        "meditron resume med-7b-3f2a91c0 --runs-dir /shared/runs",
    ),
    "recover": ("meditron recover --once", "meditron recover med-7b-3f2a91c0 --interval 300"),
    "cancel": ("meditron cancel med-7b-3f2a91c0", "meditron cancel med-7b-3f2a91c0 --save"),
    "rm": (
        "meditron rm med-7b-3f2a91c0",
        "meditron rm trial-tiny-5b0c77d2 trial-tiny-9e41aa03 --yes",
    ),
    "logs": (
        "meditron logs med-7b-3f2a91c0 --stage pretrain --follow",
        "meditron logs med-7b-3f2a91c0 --stage curate --task 3 --all",
    ),
    "checkpoints": (
        "meditron checkpoints med-7b-3f2a91c0",
        "meditron checkpoints med-7b-3f2a91c0 --model pubmedqa --deep",
    ),
    "samples": (
        "meditron samples med-7b-3f2a91c0 --step 1310",
        "meditron samples med-7b-3f2a91c0 --document PMC1234567",
    ),
    "corpus": (
        "meditron corpus sample med-7b-3f2a91c0 --dropped language -n 5",
        "meditron corpus remove med-7b-3f2a91c0 PMC1234567",
    ),
    "corpus sample": (
        "meditron corpus sample med-7b-3f2a91c0 --kept",
        "meditron corpus sample med-7b-3f2a91c0 --source pubmed --dropped language -n 5",
    ),
    "corpus remove": (
        "meditron corpus remove med-7b-3f2a91c0 PMC1234567",
        "meditron corpus remove med-7b-3f2a91c0 PMC1234567 PMC7654321 --yes",
    ),
    "profile": (
        "meditron profile med-7b-3f2a91c0 --steps 3 --ranks 0,8",
        "meditron profile med-7b-3f2a91c0 --memory",
    ),
    "report": (
        "meditron report med-7b-3f2a91c0",
        "meditron report med-7b-3f2a91c0 med-7b-3f2a91c0-2 --html",
    ),
    "verify": (
        "meditron verify meta-llama/Llama-2-7b-hf med-7b-3f2a91c0:first",
        "meditron verify runs/med-7b-3f2a91c0/export med-7b-3f2a91c0:last --tokens 64",
    ),
    "sync": (
        "meditron sync med-7b-3f2a91c0 --tracker mlflow",
        "meditron sync med-7b-3f2a91c0 --tracker wandb --project med --follow",
    ),
    "doctor": (
        "meditron doctor --cluster generic-h100",
        "meditron doctor --cluster generic-h100 --size 7b --no-probe",
    ),
    "health": ("meditron health --gpus 4", "meditron health --cluster generic-h100 --json"),
    "nodes": (
        "meditron nodes --cluster generic-h100",
        "meditron nodes --cluster generic-h100 --ticket gpu017",
    ),
    "drill": (
        "meditron drill --cluster generic-h100",
        "meditron drill --cluster generic-h100 --faults preempt,kill-rank --nodes 1",
    ),
    "selftest": (
        "meditron selftest --cluster generic-h100",
        "meditron selftest --cluster generic-h100 --size 70b --nodes 2",
    ),
}
"""By the words of the command; those of a group show its subcommands."""


def add(command: click.Command, name: str) -> None:
    """Let the help of a command, and of its subcommands, end with its examples."""
    lines = "\n".join(f"  {line}" for line in EXAMPLES[name])
    command.epilog = f"\b\nExamples:\n{lines}"
    if isinstance(command, click.Group):
        for word, inner in command.commands.items():
            add(inner, f"{name} {word}")
