"""Log lines that `meditron logs` hides."""

from __future__ import annotations

import pytest

from meditron_cli.reporting.log_filter import LogFilter

SUBMITIT = "submitit INFO (2026-11-28 10:56:41,093) - Loading pickle: a.pkl\n"
WARNING = (
    "/env/lib/python3.11/site-packages/megatron/core/dist_checkpointing/strategies/torch.py:799: "
    "FutureWarning: `load_state_dict` is deprecated\n"
    "  checkpoint.load_state_dict(\n"
)


@pytest.mark.parametrize(
    "noise",
    [
        SUBMITIT,
        WARNING,
        "".join(f"3: {line}\n" for line in WARNING.splitlines()),
        "[Gloo] Rank 0 is connected to 1 peer ranks.\n",
        "[W1128 10:56:41.123456789 socket.cpp:755] [c10d] client socket\n",
        "[rank0]:[W1128 10:56:41.123456789 ProcessGroupGloo.cpp:516] Warning: Unable to resolve\n",
        "3: [W1130 12:58:38.384280828 Utils.hpp:137] Warning: Environment variable "
        "TORCH_NCCL_TRACE_BUFFER_SIZE is deprecated; use TORCH_FR_BUFFER_SIZE instead\n",
        "WARNING:megatron.core.utils:fused kernels are not available\n",
    ],
)
def test_known_noise_is_dropped(noise: str) -> None:
    log = LogFilter()

    assert log.keep(f"before\n{noise}after\n") == "before\nafter\n"
    assert log.dropped == noise.count("\n")


@pytest.mark.parametrize(
    "text",
    [
        "/home/me/mine.py:3: UserWarning: odd\n  odd()\n",
        "submitit WARNING (2026-11-28 10:56:41,093) - Bypassing signal SIGTERM\n",
        "submitit ERROR (2026-11-28 10:56:41,093) - Submitted job triggered an exception\n",
        "[rank0]:[E1128 10:56:41.1 ProcessGroupNCCL.cpp:616] Watchdog caught collective timeout\n",
        "Traceback (most recent call last):\n  File x\n",
        "pretrain: progress 1\rpretrain: progress 2\n",
    ],
)
def test_other_lines_pass_unchanged(text: str) -> None:
    assert LogFilter().keep(text) == text


def test_a_warning_in_two_pieces_is_dropped_whole() -> None:
    log = LogFilter()
    first, second = WARNING.splitlines(keepends=True)

    assert log.keep(first) + log.keep(second + "  indented\n") == "  indented\n"


def test_the_rest_of_a_long_line_is_no_line_of_its_own() -> None:
    log = LogFilter()

    assert log.keep("a long line that ") + log.keep(SUBMITIT) == "a long line that " + SUBMITIT
