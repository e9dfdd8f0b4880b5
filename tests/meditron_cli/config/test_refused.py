"""Context parallelism and FP8 are refused by name, with the reason."""

from __future__ import annotations

import pytest

from .test_commands import meditron

CONTEXT = "context parallelism is refused until a GPU can prove it: "
FP8 = "FP8 is refused until a GPU can prove it: "


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("parallel.context=2", CONTEXT),
        ("parallel.context_parallel_size=2", CONTEXT),
        ("parallel.cp=2", CONTEXT),
        ("pretrain.precision=fp8", FP8),
        ("pretrain.precision=FP8-hybrid", FP8),
        ("pretrain.fp8=true", FP8),
        ("pretrain.fp8_format=hybrid", FP8),
    ],
)
@pytest.mark.parametrize("command", ["plan", "submit"])
def test_a_setting_that_no_gpu_has_proven_is_refused_with_the_reason(
    folder: object, command: str, override: str, reason: str
) -> None:
    words = (command, "pretrain", "--cluster", "rcp", "--size", "tiny", "--set", override)

    result = meditron(*words)

    assert result.exit_code == 2
    assert f"{override.split('=')[0]}: {reason}" in result.stderr


def test_other_unknown_keys_and_values_are_refused_as_before(folder: object) -> None:
    result = meditron(
        "plan", "pretrain", "--cluster", "rcp", "--size", "tiny", "--set", "parallel.contex=2",
        "--set", "pretrain.precision=fp16",
    )  # fmt: skip

    assert result.exit_code == 2
    assert "parallel.contex: unknown key; known here: tensor, pipeline, virtual" in result.stderr
    assert "expected one of bf16, fp32, found 'fp16'" in result.stderr


def test_explain_names_the_reason_too(folder: object) -> None:
    result = meditron("explain", "parallel.context")

    assert result.exit_code == 2
    assert f"parallel.context: {CONTEXT}" in result.stderr
