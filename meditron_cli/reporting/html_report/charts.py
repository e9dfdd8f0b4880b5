"""The charts of the HTML report as specifications in Vega-Lite (vega.github.io/vega-lite). Pure.

Colours are variables of the page's style sheet, so that they follow light and dark mode. Charts of
one zoom group show the same part of their x axis: parameter ``zoom``, which the page sets.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Spec = dict[str, Any]

COLOURS = [
    colour if shade is None else f"color-mix(in oklab, {colour} 55%, var(--{shade}))"
    for shade in (None, "text", "back")
    for colour in (f"var(--c{number})" for number in range(8))
]
"""Of 24 curves: eight colours, and the same darker and lighter than the page's."""
HEIGHT = 150
LINE_HEIGHT = 22
TWO_LINES = 30
"""Height of what has a label of two lines."""
NARROW = "containerSize()[0] < 500"
"""Whether a chart has the width of a phone."""

CONFIG: Spec = {
    "background": "transparent",
    "font": "system-ui, sans-serif",
    "view": {"stroke": None},
    "axis": {
        "labelColor": "var(--soft)",
        "titleColor": "var(--soft)",
        "gridColor": "var(--grid)",
        "domainColor": "var(--grid)",
        "tickColor": "var(--grid)",
        "titleFontWeight": "normal",
        "labelFontSize": 11,
        "titleFontSize": 11,
        "labelLimit": {"expr": f"{NARROW} ? 150 : 340"},
    },
    "axisQuantitative": {"tickCount": 5},
    "legend": {
        "labelColor": "var(--text)",
        "titleColor": "var(--soft)",
        "orient": "bottom",
        "direction": "horizontal",
        "columns": {"expr": f"{NARROW} ? 1 : 4"},
        "layout": {"bottom": {"anchor": "start", "direction": "vertical", "margin": 4}},
        "labelFontSize": 11,
        "labelLimit": 220,
        "title": None,
        "symbolStrokeWidth": 2,
        "symbolOpacity": 1,
    },
    "range": {"category": COLOURS},
}


@dataclass(frozen=True)
class Chart:
    """A chart of the page."""

    name: str
    title: str
    text: str
    """What it shows, for readers that do not see it."""
    spec: Spec
    zoom: str = ""
    """Its zoom group."""
    is_wide: bool = False
    """Takes the width of the page."""

    def to_json(self) -> dict[str, Any]:
        """Return what the page's program reads."""
        spec = {"description": f"{self.title}. {self.text}", **self.spec}
        return {"name": self.name, "zoom": self.zoom, "spec": spec}


SHORT_NUMBER = (
    "abs(datum.value) < 1000 ? format(datum.value, '.3~r') "
    ": replace(format(datum.value, '.3~s'), 'G', 'B')"
)
"""Numbers of axes: ``0.5``, ``20B`` tokens."""
ZOOM: Spec = {"name": "zoom", "value": None}
BRUSH: Spec = {
    "name": "brush",
    "select": {
        "type": "interval",
        "encodings": ["x"],
        "mark": {"fill": "var(--text)", "fillOpacity": 0.12, "stroke": None},
    },
}
"""A drag over the chart, which the page takes as the part to show."""


def curves(kind: str, names: Sequence[str], has_range: bool) -> Iterable[Chart]:
    """Yield the charts of trainings against tokens.

    Args:
        kind: of the trainings; their data are named after it.
        names: of the trainings.
        has_range: whether points stand for several steps, and have extremes.
    """
    steps, several = f"{kind}-steps", len(names) > 1
    ranged = "mean, least and largest of each point." if has_range else "every step."

    def chart(name: str, title: str, text: str, layers: list[Spec]) -> Chart:
        spec = {"params": [ZOOM], "layer": [*layers, marks(kind)], **frame()}
        return Chart(f"{kind}-{name}", title, text, spec, kind, name == "loss")

    for name, title, field in (
        ("loss", "Training loss", "loss"),
        ("validation", "Validation loss", ""),
        ("rate", "Learning rate", "rate"),
        ("grad", "Gradient norm", "grad"),
        ("speed", "Tokens per second", "speed"),
    ):
        if name == "validation":
            yield chart(name, title, "In nats per token.", validations(kind, several))
        elif name == "rate":
            layers = [line(steps, field, several), reading(steps, field, several)]
            yield chart(name, title, "Of the last step of a point.", layers)
        else:
            text = f"{'In nats per token: ' if name == 'loss' else ''}{ranged}"
            yield chart(
                name, title, text[0].upper() + text[1:], ranges(steps, field, several, has_range)
            )


def frame() -> Spec:
    """Return the size of a chart that takes the width of its column."""
    return {
        "width": "container",
        "height": HEIGHT,
        "autosize": {"type": "fit-x", "contains": "padding"},
    }


READ = 250
"""Most points of a chart whose values can be read: each has a place of its own in the page."""
VISIBLE: Spec = {"filter": "!zoom || (datum.tokens >= zoom[0] && datum.tokens <= zoom[1])"}


def tokens_axis() -> Spec:
    """Return the x axis of tokens, of which the zoomed part is shown."""
    return {
        "field": "tokens",
        "type": "quantitative",
        "title": "tokens seen",
        "scale": {"domain": {"expr": "zoom"}, "nice": False},
        "axis": {"labelExpr": SHORT_NUMBER, "grid": False},
    }


def value_axis(field: str, title: str | None = None) -> Spec:
    """Return a y axis, as large as the visible part needs."""
    return {
        "field": field,
        "type": "quantitative",
        "title": title,
        "scale": {"zero": False},
        "axis": {
            "labelExpr": SHORT_NUMBER
            if field != "rate"
            else "datum.value ? format(datum.value, '~e') : '0'"
        },
    }


def colour(field: str, several: bool) -> Spec:
    """Return the colour of what has a name, the first one for all of a single training."""
    if not several:
        return {"value": COLOURS[0]}
    return {"field": field, "type": "nominal", "sort": None}


def line(data: str, field: str, several: bool, brush: bool = True) -> Spec:
    """Return a layer with the line of a field of the steps."""
    return {
        "data": {"name": data},
        "transform": [VISIBLE],
        **({"params": [BRUSH]} if brush else {}),
        "mark": {"type": "line", "strokeWidth": 1.5, "clip": True},
        "encoding": {
            "x": tokens_axis(),
            "y": value_axis(field),
            "color": colour("training", several),
            **({"detail": {"field": "training"}} if several else {}),
        },
    }


def ranges(data: str, field: str, several: bool, has_range: bool) -> list[Spec]:
    """Return the layers of a field of the steps: its extremes, its line, and points to read."""
    band: Spec = {
        "data": {"name": data},
        "transform": [VISIBLE],
        "mark": {"type": "area", "opacity": 0.35, "clip": True, "tooltip": None},
        "encoding": {
            "x": tokens_axis(),
            "y": value_axis(f"{field}_low"),
            "y2": {"field": f"{field}_high"},
            "color": colour("training", several),
        },
    }
    return [
        *([band] if has_range else []),
        line(data, field, several),
        reading(data, field, several),
    ]


def reading(data: str, field: str, several: bool) -> Spec:
    """Return the layer of the point that is nearest to the pointer, with its values."""
    shown = {"loss": ".4f", "grad": ".3f", "speed": ",.0f", "rate": ".3~e"}[field]
    return {
        "data": {"name": data},
        "transform": [VISIBLE, {"sample": READ}],
        "params": [
            {
                "name": "near",
                "select": {
                    "type": "point",
                    "on": "pointermove",
                    "clear": "pointerout",
                    "nearest": True,
                    "encodings": ["x"],
                },
            }
        ],
        "mark": {"type": "point", "filled": True, "size": 45, "clip": True},
        "encoding": {
            "x": tokens_axis(),
            "y": value_axis(field),
            "color": colour("training", several),
            "opacity": {"condition": {"param": "near", "empty": False, "value": 1}, "value": 0},
            "tooltip": [
                *([{"field": "training", "type": "nominal"}] if several else []),
                {"field": "step", "type": "quantitative", "format": ",", "title": "step"},
                {"field": "tokens", "type": "quantitative", "format": ",", "title": "tokens"},
                {"field": field, "type": "quantitative", "format": shown, "title": field},
                *(
                    {
                        "field": f"{field}_{end}",
                        "type": "quantitative",
                        "format": shown,
                        "title": word,
                    }
                    for end, word in (("low", "least"), ("high", "largest"))
                    if field != "rate"
                ),
            ],
        },
    }


DASHES: Spec = {
    "symbolType": "stroke",
    "symbolStrokeColor": "var(--text)",
    "values": {"expr": "length(domain('strokeDash')) < 2 ? [] : domain('strokeDash')"},
}


def validations(kind: str, several: bool) -> list[Spec]:
    """Return the layers of validation losses, lines and points: a colour per corpus, or per
    training with a dash per corpus.
    """
    shared: Spec = {
        "data": {"name": f"{kind}-validations"},
        "transform": [VISIBLE],
        "encoding": {
            "x": tokens_axis(),
            "y": value_axis("loss"),
            "color": {
                **colour("training" if several else "corpus", True),
                "legend": {
                    "values": {"expr": "length(domain('color')) < 2 ? [] : domain('color')"}
                },
            },
        },
    }
    dash: Spec = {"strokeDash": {"field": "corpus", "type": "nominal", "legend": DASHES}}
    tooltip = [
        *([{"field": "training", "type": "nominal"}] if several else []),
        {"field": "corpus", "type": "nominal"},
        {"field": "step", "type": "quantitative", "format": ","},
        {"field": "loss", "type": "quantitative", "format": ".4f"},
    ]
    return [
        {
            **shared,
            "params": [BRUSH],
            "mark": {"type": "line", "strokeWidth": 1.5, "clip": True},
            "encoding": {**shared["encoding"], **(dash if several else {})},
        },
        {
            **shared,
            "mark": {"type": "point", "filled": True, "size": 16, "clip": True, "opacity": 1},
            "encoding": {**shared["encoding"], "tooltip": tooltip},
        },
    ]


def marks(kind: str) -> Spec:
    """Return the layer of marks where attempts resumed, at the lower edge."""
    return {
        "data": {"name": f"{kind}-marks"},
        "transform": [VISIBLE],
        "mark": {"type": "rule", "color": "var(--mark)", "clip": True, "strokeWidth": 1.5},
        "encoding": {
            "x": tokens_axis(),
            "y": {"value": {"expr": "height"}},
            "y2": {"value": {"expr": "height - 7"}},
            "tooltip": {"field": "text", "type": "nominal"},
        },
    }


OUTCOMES = {
    "finished": "var(--good)",
    "running": "var(--c0)",
    "preempted or stopped": "var(--soft)",
    "node or GPU": "var(--bad)",
    "hang or launch": "var(--c1)",
    "memory": "var(--c4)",
    "storage or data": "var(--c2)",
    "program": "var(--c5)",
}
"""Colours of the groups of root causes in the timeline."""


def timeline(lanes: Collection[str], outcomes: Iterable[str]) -> Chart:
    """Return the chart of attempts over time, a lane per stage, in the colours of outcomes; the
    name of a lane may have two lines.
    """
    is_tall = any("\n" in lane for lane in lanes)
    colours = {name: OUTCOMES[name] for name in OUTCOMES if name in set(outcomes)}
    spec: Spec = {
        "params": [ZOOM],
        "data": {"name": "attempts"},
        "transform": [{"filter": "!zoom || (datum.ended >= zoom[0] && datum.began <= zoom[1])"}],
        "width": "container",
        "height": (TWO_LINES if is_tall else LINE_HEIGHT) * len(lanes),
        "autosize": {"type": "fit-x", "contains": "padding"},
        "layer": [
            {
                "params": [BRUSH],
                "mark": {"type": "bar", "clip": True, "height": 14, "strokeWidth": 0.7},
                "encoding": {
                    "x": {
                        "field": "began",
                        "type": "temporal",
                        "title": None,
                        "scale": {"domain": {"expr": "zoom"}, "nice": False},
                        "axis": {"grid": False, "labelOverlap": True, "tickCount": 6},
                    },
                    "x2": {"field": "ended"},
                    "y": {
                        "field": "lane",
                        "type": "nominal",
                        "sort": None,
                        "title": None,
                        "axis": {
                            "labelExpr": "split(datum.value, '\\n')",
                            "labelOffset": -5 * is_tall,
                        },
                    },
                    "color": groups("outcome", colours),
                    "stroke": groups("outcome", colours),
                    "tooltip": [
                        {"field": "attempt", "type": "nominal"},
                        {"field": "began", "type": "temporal", "format": "%-d %b %H:%M:%S"},
                        {"field": "lasted", "type": "nominal"},
                        {"field": "nodes", "type": "nominal"},
                        {"field": "ended with", "type": "nominal"},
                        {"field": "why", "type": "nominal"},
                    ],
                },
            }
        ],
    }
    text = "A line per stage, coloured by how attempts ended."
    return Chart("timeline", "Attempts over time", text, spec, "time")


def groups(field: str, colours: Mapping[str, str]) -> Spec:
    """Return the colour of what belongs to one of some groups."""
    scale = {"domain": list(colours), "range": list(colours.values())}
    return {"field": field, "type": "nominal", "scale": scale}


BUCKET_COLOURS = {
    "training": "var(--good)",
    "startup": "var(--c1)",
    "checkpoint": "var(--c0)",
    "validation": "var(--c3)",
    "redone": "var(--bad)",
    "stall": "var(--c5)",
    "down": "var(--c4)",
    "queue": "var(--grid)",
}


def time_breakdown(rows: Sequence[Spec]) -> Chart:
    """Return the chart of the share of each bucket in the time of a training, a bar per run."""
    names = [name for name in BUCKET_COLOURS if any(row["bucket"] == name for row in rows)]
    return bars(
        "time-chart",
        "Time of training",
        "The share of each kind of time.",
        rows,
        {"field": "bucket", "colours": {name: BUCKET_COLOURS[name] for name in names}},
    )


def bars(name: str, title: str, text: str, rows: Sequence[Spec], parts: Mapping[str, Any]) -> Chart:
    """Return a chart of stacked bars: the shares of parts in wholes."""
    colours = parts["colours"]
    order = f"indexof({list(colours)}, datum['{parts['field']}'])"
    spec: Spec = {
        "data": {"values": list(rows)},
        "transform": [{"calculate": order, "as": "place"}],
        "width": "container",
        "height": (LINE_HEIGHT + 6) * len({row["of"] for row in rows}),
        "autosize": {"type": "fit-x", "contains": "padding"},
        "mark": {"type": "bar", "height": 18},
        "encoding": {
            "y": {"field": "of", "type": "nominal", "sort": None, "title": None},
            "x": {
                "field": "value",
                "type": "quantitative",
                "stack": "normalize",
                "title": None,
                "axis": {"format": ".0%", "grid": False},
            },
            "color": groups(parts["field"], colours),
            "order": {"field": "place"},
            "tooltip": [
                {"field": "of", "type": "nominal", "title": "of"},
                {"field": parts["field"], "type": "nominal"},
                {"field": "text", "type": "nominal", "title": "value"},
            ],
        },
    }
    return Chart(name, title, text, spec)


SCORES = {"ours": "var(--c0)", "published": "var(--c1)"}


def score_axis(rows: Sequence[Spec], is_tall: bool) -> Spec:
    """Return the axis of scores: the label of each line, those of benchmarks in bold."""
    return {
        "field": "line",
        "type": "nominal",
        "scale": {"domain": [row["line"] for row in rows]},
        "title": None,
        "axis": {
            "labelExpr": "split(split(datum.value, '\\t')[1], '\\n')",
            "labelOffset": -5 * is_tall,
            "labelFontWeight": {
                "condition": {"test": "test(/^[0-9]+#/, datum.value)", "value": "bold"},
                "value": "normal",
            },
            "grid": False,
            "ticks": False,
        },
    }


def share(field: str) -> Spec:
    """Return the axis of accuracies."""
    return {
        "field": field,
        "type": "quantitative",
        "title": None,
        "axis": {"format": ".0%"},
        "scale": {"zero": True},
    }


def scores(rows: Sequence[Spec]) -> Chart:
    """Return the chart of scores with their 95 % intervals, a line per score.

    Args:
        rows: with ``line``, unique and beginning with a number and a tab; a benchmark's own line
            has no ``value``. A label may have two lines.
    """
    is_tall = any("\n" in row["line"] for row in rows)
    shown = {name: SCORES[name] for name in SCORES if any(row["from"] == name for row in rows)}
    spec: Spec = {
        "data": {"values": list(rows)},
        "width": "container",
        "height": (TWO_LINES if is_tall else 18) * len(rows),
        "autosize": {"type": "fit-x", "contains": "padding"},
        "encoding": {"y": score_axis(rows, is_tall), "color": groups("from", shown)},
        "layer": [
            {
                "mark": {"type": "rule", "strokeWidth": 2, "opacity": 0.6},
                "encoding": {"x": share("low"), "x2": {"field": "high"}},
            },
            {
                "mark": {"type": "tick", "color": "var(--soft)", "thickness": 1.5, "height": 10},
                "encoding": {"x": share("chance"), "color": {"value": "var(--soft)"}},
            },
            {
                "mark": {"type": "point", "filled": True, "size": 55, "opacity": 1},
                "encoding": {
                    "x": share("value"),
                    "shape": {
                        "field": "from",
                        "type": "nominal",
                        "scale": {"domain": list(shown), "range": ["circle", "diamond"]},
                    },
                    "tooltip": {"field": "text", "type": "nominal"},
                },
            },
        ],
    }
    text = "Lines are 95 % intervals, ticks chance. Every figure is in the tables below."
    return Chart("scores", "Accuracy", text, spec)
