"""Filter out log lines without information about a run: submitit's own, and known library warnings.

All other lines pass unchanged, unknown warnings included. Python prints a warning in two lines, its
location and the indented source line; both are dropped.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

LABEL = r"(?:\s*\d+: )?"
"""The rank that ``srun --label`` puts before each line of a rank log."""

LIBRARY_WARNING = re.compile(
    LABEL + r"\S*/site-packages/(?:torch|megatron|lm_eval|datasets|transformer_engine)/"
    r"\S+\.py:\d+: \w*Warning: "
)
"""A Python warning raised for a line of a library."""

SOURCE_LINE = re.compile(LABEL + r"  \S")
"""The second line of a Python warning."""

NOISE = re.compile(
    LABEL + r"(?:"
    r"submitit INFO \("
    r"|WARNING:megatron\.core\."
    r"|\[Gloo\] Rank \d+ is connected to \d+ peer ranks"
    r"|(?:\[[^\]]*\]:)?\[W\d{4} [^\]]*(?:socket|ProcessGroupGloo|TCPStore)\.cpp:\d+\] "
    r"|\[W\d{4} [^\]]*Utils\.hpp:\d+\] Warning: Environment variable "
    r"TORCH_NCCL_(?:TRACE_BUFFER_SIZE|DEBUG_INFO_TEMP_FILE) is deprecated"
    r")"
)
"""Lines of submitit, of torch's rendezvous and gloo at start-up, of torch about variables that
ranks also have by their new names, and of megatron.core."""

LINE = re.compile(r"[^\n]*\n|[^\n]+")


class LogFilter:
    """The filter of one log file, which is read in pieces."""

    def __init__(self) -> None:
        self.dropped = 0
        """Lines dropped so far."""
        self._inside_line = False
        """Whether the last piece ended inside a line."""
        self._after_warning = False

    def keep(self, text: str) -> str:
        """Return the text without the lines to drop."""
        return "".join(self._kept(text))

    def _kept(self, text: str) -> Iterator[str]:
        for line in LINE.findall(text):
            continued, self._inside_line = self._inside_line, not line.endswith("\n")
            if not continued and self._is_noise(line):
                self.dropped += 1
            else:
                yield line

    def _is_noise(self, line: str) -> bool:
        after_warning = self._after_warning
        self._after_warning = LIBRARY_WARNING.match(line) is not None
        if self._after_warning or NOISE.match(line):
            return True
        return after_warning and SOURCE_LINE.match(line) is not None
