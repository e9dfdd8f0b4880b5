"""The screen of one run. Pure: from its data to lines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime

from rich.text import Text

from jobs.contract.units import plural
from meditron_cli.console import STYLES
from meditron_cli.reporting import tables
from meditron_cli.reporting.attempts import Attempt
from meditron_cli.reporting.interruptions import ANNOUNCED
from meditron_cli.reporting.live.drawing import (
    ASCII,
    UNICODE,
    Glyphs,
    Part,
    Stretch,
    bar,
    clean,
    curve,
    flow,
    level,
    line,
    shortened,
    timeline,
    wrapped,
)
from meditron_cli.reporting.live.layout import Section, column_width, screen
from meditron_cli.reporting.live.page import Asked, GpuReading, NodeReading, RunPage
from meditron_cli.reporting.reasons.waiting import start_text
from meditron_cli.reporting.tables import duration
from meditron_cli.runs.state import ALIVE
from meditron_cli.runs.views import StageView

WIDE = 64
"""Width from which lines have their minor parts."""
SILENT_SECONDS = 60.0
"""Since its last report after which a monitor counts as silent."""
HOT = 85.0
"""Degrees Celsius from which a temperature stands out."""
CURVE_LINES = 10


def run_screen(page: RunPage, size: tuple[int, int], ascii_only: bool = False) -> list[Text]:
    """Return the lines of a run's screen, at most ``size`` in width and height."""
    glyphs = ASCII if ascii_only else UNICODE
    width, height = size
    head = [heading(page, width), *flow(figures(page), width)[: max(1, height // 4)]]
    stages = stage_lines(page, width, 999, glyphs)
    waiting = [stage for stage in page.view.stages.values() if not stage.finished]
    sections = [
        remarks("errors", page.errors, size, "red"),
        remarks("waiting", page.waiting, size, "yellow"),
        Section(
            "stages", lambda w, h: stage_lines(page, w, h, glyphs),
            max(1, min(len(waiting), height // 3)), len(stages), 1,
        ),
        Section(
            curve_title(page), lambda w, h: curve_lines(page, w, h, glyphs),
            4, CURVE_LINES if page.curve else 0, 5,
        ),
        Section(
            attempts_title(page), lambda w, h: attempt_lines(page, w, h, glyphs),
            2, len(attempt_lines(page, width, 8, glyphs)), 3,
        ),
        Section(
            "GPUs", lambda w, h: gpu_lines(page, w, h, glyphs),
            1, len(page.nodes), 4, right=True,
        ),
        Section(
            "alarms", lambda w, h: alarm_lines(page)[:h], 1, len(page.alarms), 2, right=True
        ),
        Section(
            f"log {page.log.name}" if page.log else "log", lambda w, h: log_lines(page, h),
            2, len(page.log.lines) if page.log else 0, 6, right=True,
        ),
    ]  # fmt: skip
    foot = line((page.problem, "red")) if page.problem else footer(page.asked, page.now, width)
    return screen(head, sections, foot, size, glyphs)


def heading(page: RunPage, width: int) -> Text:
    """Return the first line: name, state, cluster, time of day."""
    view = page.view
    state = (view.state_text, f"bold {STYLES.get(view.state, '')}")
    time = f"{datetime.fromtimestamp(page.now):%H:%M:%S}"
    text = line((view.name, "bold"), "  ", state)
    if text.cell_len + len(view.cluster) + len(time) + 4 <= width:
        text.append(f"  {view.cluster}", "dim")
    gap = width - text.cell_len - len(time)
    return text.append(" " * gap + time, "dim") if gap > 1 else text


def figures(page: RunPage) -> list[Text]:
    """Return the figures of the whole run."""
    curve, speed = page.curve, page.speed
    since = None if page.submitted_at is None else duration(max(0.0, page.now - page.submitted_at))
    rate = speed.tokens_per_s if speed else page.tokens_per_s
    found = (
        ("loss", f"{curve.losses[-1]:.4g}" if curve else None),
        ("validation", f"{curve.validation[1]:.4g}" if curve and curve.validation else None),
        ("tokens/s", f"{rate:,.0f}" if rate else None),
        ("MFU", f"{speed.mfu:.1%}" if speed and speed.mfu is not None else None),
        ("step", f"{speed.step_p50:.3g} s" if speed else None),
        ("goodput", None if page.goodput is None else f"{page.goodput:.0%}"),
        ("submitted", since and f"{since} ago"),
    )
    return [line((f"{name} ", "dim"), (value, "bold")) for name, value in found if value]


def remarks(title: str, sentences: Sequence[str], size: tuple[int, int], style: str) -> Section:
    """Return the section of sentences and their hints, which are of no use cut short."""
    width, height = size
    count = len(remark_lines(sentences, column_width(width), height, style))
    return Section(
        title, lambda w, h: remark_lines(sentences, w, h, style), min(count, height // 2), count, 0
    )


def remark_lines(sentences: Sequence[str], width: int, height: int, style: str) -> list[Text]:
    """Return sentences and hints in lines; where they are too many, the last one, which shows how
    to continue, and the first ones.
    """
    shown = sentences if len(sentences) <= height else [*sentences[: height - 1], sentences[-1]]
    rows = [
        [
            line((row, "" if text.startswith("hint: ") else style))
            for row in wrapped(clean(text), width)
        ]
        for text in shown
    ]
    last = rows.pop()[:height] if rows else []
    return [*[row for text in rows for row in text][: height - len(last)], *last]


def stage_lines(page: RunPage, width: int, height: int, glyphs: Glyphs) -> list[Text]:
    """Return a line per stage with its bar, and why pending ones wait. Where they are too many,
    finished stages are left out first.
    """
    stages = list(page.view.stages.values())
    lines = {stage.stage: stage_line(page, stage, width, glyphs) for stage in stages}
    waiting = {stage.stage: waiting_line(stage) for stage in stages}

    def all_lines(shown: Iterable[StageView]) -> list[Text]:
        both = ((lines[stage.stage], waiting[stage.stage]) for stage in shown)
        return [item for pair in both for item in pair if item is not None]

    found = all_lines(stages)
    if len(found) <= height:
        return found
    open_stages = [stage for stage in stages if not stage.finished]
    done = len(stages) - len(open_stages)
    found = all_lines(open_stages)
    if done and len(found) < height:
        found.insert(0, line((f"{plural(done, 'stage')} finished", "green")))
    return found[:height]


def stage_line(page: RunPage, stage: StageView, width: int, glyphs: Glyphs) -> Text:
    """Return the line of a stage."""
    names = max((len(name) for name in page.view.stages), default=0)
    done, total = stage.measure
    share = min(done / total, 1.0) if total else 0.0
    style = STYLES.get(stage.state, "")
    rest = max(len(after_bar(page, item, width)) for item in page.view.stages.values())
    length = max(4, min(30, width - names - 17 - rest))
    parts: list[Part] = [
        stage.stage.ljust(names + 1),
        (stage.state.ljust(10), style),
        *bar(share, length, style or "cyan", glyphs),
        f" {share:4.0%}",
        after_bar(page, stage, width),
    ]
    return line(*parts)


def after_bar(page: RunPage, stage: StageView, width: int) -> str:
    """Return what follows a stage's bar."""
    left = duration(page.etas.get(stage.stage))
    if width < WIDE:
        return f" {left}" if left else ""
    return f"  {stage.amount}" + (f"  {left} left" if left else "")


def waiting_line(stage: StageView) -> Text | None:
    """Return why a stage waits and from when Slurm expects it to run, or how it is about to end."""
    reason = stage.pending_reason if stage.state == "pending" else ""
    parts = [part for part in (reason, start_text(stage), stage.stopping) if part]
    return line((f"  {', '.join(parts)}", "dim")) if parts else None


def curve_title(page: RunPage) -> str:
    found = page.curve
    if found is None:
        return "loss"
    text = f"loss of {page.training}, steps {found.steps[0]} to {found.steps[-1]}"
    if found.validation:
        text += f"; validation {found.validation[1]:.4g} after {found.validation[0]}"
    return text


def curve_lines(page: RunPage, width: int, height: int, glyphs: Glyphs) -> list[Text]:
    """Return the curve of the loss."""
    if page.curve is None:
        return []
    return [line((row, "cyan")) for row in curve(page.curve.losses, width, height, glyphs)]


def attempts_title(page: RunPage) -> str:
    """Return how many attempts there were, and the root causes of those that broke off."""
    text = plural(len(page.attempts), "attempt")
    if page.attempts:
        text += f" since {datetime.fromtimestamp(began(page)):%m-%d %H:%M}"
    causes = Counter(item.cause.replace("_", " ") for item in page.attempts if item.interrupted)
    return text + ": " * bool(causes) + ", ".join(f"{n} {name}" for name, n in causes.most_common())


def began(page: RunPage) -> float:
    """Return where the strips of attempts begin: at the first submission."""
    first = page.attempts[0].began
    return first if page.submitted_at is None else min(first, page.submitted_at)


def attempt_lines(page: RunPage, width: int, height: int, glyphs: Glyphs) -> list[Text]:
    """Return a strip per stage with its attempts, and a line per attempt, the newest first."""
    if not page.attempts:
        return []
    begin = began(page)
    alive = page.view.state in ALIVE
    last = max(item.ended or item.began for item in page.attempts)
    end = max(page.now, last) if alive else last
    shown: dict[str, list[Stretch]] = {}
    for attempt in page.attempts:
        shown.setdefault(attempt.stage, []).append(stretch(page, attempt, end))
    names = max(map(len, shown))
    listed = [
        item
        for item in page.attempts
        if item.interrupted or (item.ended is None and open_state(page, item) != "succeeded")
    ]
    strips = [
        line(name.ljust(names + 1), *timeline(items, begin, end, max(1, width - names - 1), glyphs))
        for name, items in shown.items()
    ][-max(1, height - bool(listed)) :]
    newest = listed[::-1][: max(0, height - len(strips))]
    return [*strips, *(attempt_line(page, item, end, width) for item in newest)]


def stretch(page: RunPage, attempt: Attempt, end: float) -> Stretch:
    """Return an attempt in its strip."""
    if attempt.ended is not None:
        return Stretch(attempt.began, attempt.ended, outcome_style(attempt), attempt.interrupted)
    state = open_state(page, attempt)
    style = "green" if state == "succeeded" else "cyan"
    return Stretch(attempt.began, end if state else attempt.began, style, False)


def open_state(page: RunPage, attempt: Attempt) -> str:
    """Return the state of the task of an attempt that is open; empty of another."""
    return page.open_attempts.get((attempt.stage, attempt.index, attempt.number), "")


def outcome_style(attempt: Attempt) -> str:
    if not attempt.interrupted:
        return "green"
    return "yellow" if attempt.cause in ANNOUNCED else "red"


def attempt_line(page: RunPage, attempt: Attempt, end: float, width: int) -> Text:
    """Return an attempt: its node, how long it lasted, its last step, its root cause and why. A
    stage of several tasks is followed by the task.
    """
    stage = page.view.stages.get(attempt.stage)
    task = f"[{attempt.index}]" if stage and stage.total > 1 else ""
    name = (
        f"{attempt.stage}{task} {attempt.number}" if width >= WIDE else f"#{attempt.number}{task}"
    )
    ended = end if attempt.ended is None else attempt.ended
    step = page.last_steps.get((attempt.stage, attempt.index, attempt.number))
    outcome = open_state(page, attempt) or "not recorded"
    style = STYLES.get(outcome, "cyan") if attempt.end is None else outcome_style(attempt)
    parts: list[Part] = [f"{name} ", (f"{duration(max(0.0, ended - attempt.began))}  ", "dim")]
    if step is not None:
        parts.append((f"to step {step}  ", "dim"))
    parts.append((attempt.outcome if attempt.end else outcome, style))
    if width >= WIDE:
        node = attempt.node or tables.nodes_text(attempt.nodes) or ""
        why = f": {attempt.sentence}" if attempt.sentence else ""
        parts += [f" on {node}" if node else "", why]
    return line(*parts)


def gpu_lines(page: RunPage, width: int, height: int, glyphs: Glyphs) -> list[Text]:
    """Return a heat strip per node, nodes with findings first; the last line counts the rest."""
    nodes = sorted(page.nodes, key=lambda node: not any(gpu.verdict for gpu in node.gpus))
    shown = nodes if len(nodes) <= height else nodes[: max(0, height - 1)]
    names = min(max((len(node.node) for node in shown), default=0), width // 3)
    lines = [node_line(page, node, names, width, glyphs) for node in shown]
    rest = nodes[len(shown) :]
    if rest:
        used = mean(gpu.utilisation for node in rest for gpu in node.gpus)
        text = "" if used is None else f", {used:.0f} % in the mean"
        more = " more" if shown else ""
        lines.append(line((f"{plural(len(rest), 'node')}{more}{text}", "dim")))
    return lines


def node_line(page: RunPage, node: NodeReading, names: int, width: int, glyphs: Glyphs) -> Text:
    """Return the strip of a node: a cell per GPU, as high as its utilisation, red or yellow where
    there is a finding; then mean utilisation, highest temperature, power.
    """
    times = 2 if width >= WIDE else 1
    cells: list[Part] = [(level(gpu.utilisation, glyphs) * times, heat(gpu)) for gpu in node.gpus]
    used = mean(gpu.utilisation for gpu in node.gpus)
    hottest = max((gpu.temperature for gpu in node.gpus if gpu.temperature is not None), default=0)
    power = sum(gpu.power_w for gpu in node.gpus if gpu.power_w is not None)
    silent = page.now - node.time
    if silent > SILENT_SECONDS:
        state: list[Part] = [(f"  no report for {duration(silent)}", "yellow")]
    else:
        state = [
            "" if used is None else f"  {used:3.0f} %",
            (f"  {hottest:.0f} °C", "red" if hottest >= HOT else "") if hottest else "",
            f"  {power / 1000:.1f} kW" if power else "",
        ]
    return line(shortened(node.node, names, glyphs).ljust(names + 1), *cells, *state)


def heat(gpu: GpuReading) -> str:
    """Return the style of a GPU's cell."""
    if gpu.verdict in ("WARN", "DRAIN", "FATAL"):
        return f"bold {STYLES[gpu.verdict]}"
    if gpu.utilisation is None:
        return "dim"
    return "green" if gpu.utilisation >= 80 else "cyan" if gpu.utilisation >= 30 else "blue"


def mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def alarm_lines(page: RunPage) -> list[Text]:
    """Return the newest alarm of each kind and node, the newest first."""
    return [
        line(
            (f"{datetime.fromtimestamp(alarm.time):%m-%d %H:%M} ", "dim"),
            (f"{alarm.verdict} {alarm.code}", STYLES.get(alarm.verdict, "")),
            f" {alarm.node}: " if alarm.node else ": ",
            alarm.message,
        )
        for alarm in reversed(page.alarms)
    ]


def log_lines(page: RunPage, height: int) -> list[Text]:
    lines: Sequence[str] = page.log.lines if page.log else ()
    return [line((text, "dim")) for text in lines[-height:]]


def footer(asked: Asked, now: float, width: int) -> Text:
    """Return the last line: the key that leaves, and how old Slurm's answer is."""
    text = line(("q", "bold"), (" leaves", "dim"))
    if not asked.kind:
        return text.append("  nothing runs or waits", "dim")
    if asked.kind == "local":
        return text
    if asked.at is None:
        return text.append("  waiting for Slurm", "yellow")
    if asked.silent:
        text.append("  Slurm does not answer", "yellow")
    else:
        text.append(f"  Slurm answered {max(0.0, now - asked.at):.0f} s ago", "dim")
    due = "now" if asked.asking else f"again in {max(0.0, asked.due - now):.0f} s"
    return text.append(f", asked {due}", "dim") if width >= WIDE else text
