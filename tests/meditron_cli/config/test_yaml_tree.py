"""YAML 1.2 scalars, marks, and what is refused before any model is asked."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meditron_cli.config import yaml_tree
from meditron_cli.config.diagnostics import Problems, Source

SOURCE = Source("experiment", "e.yaml", Path("/somewhere"))


def parse(text: str) -> tuple[yaml_tree.Node | None, list[str]]:
    problems = Problems()
    return yaml_tree.parse(text, SOURCE, problems), problems.lines()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3e-4", 3e-4),
        ("1E5", 1e5),
        ("+.5", 0.5),
        ("-1.", -1.0),
        ("1.10", 1.1),
        ("010", 10),
        ("+12", 12),
        ("-7", -7),
        ("0o10", 8),
        ("0xff", 255),
        ("true", True),
        ("FALSE", False),
        ("null", None),
        ("~", None),
        ("", None),
        (".inf", math.inf),
        ("-.INF", -math.inf),
        # words in YAML 1.2, values in YAML 1.1
        ("24:00:00", "24:00:00"),
        ("1:30", "1:30"),
        ("no", "no"),
        ("Yes", "Yes"),
        ("on", "on"),
        ("off", "off"),
        ("y", "y"),
        ("1_000", "1_000"),
        ("0b101", "0b101"),
        ("2026-01-31", "2026-01-31"),
        ("=", "="),
        ("<account>", "<account>"),
        ("-", "-"),
        (".", "."),
        ("1e", "1e"),
        ("e5", "e5"),
    ],
)
def test_an_unquoted_scalar_is_read_by_yaml_1_2(text: str, value: object) -> None:
    found = yaml_tree.plain_scalar(text)

    assert (type(found), found) == (type(value), value)


def test_a_quoted_scalar_is_text_whatever_it_holds() -> None:
    root, problems = parse("""{a: "10", b: 'true', c: ""}""")

    assert root is not None
    assert yaml_tree.to_plain(root) == {"a": "10", "b": "true", "c": ""}
    assert problems == []


def test_a_block_scalar_is_text() -> None:
    root, _ = parse("a: |-\n  10\nb: >-\n  true\n")

    assert root is not None
    assert yaml_tree.to_plain(root) == {"a": "10", "b": "true"}


def test_a_number_of_very_many_digits_does_not_break_the_reader() -> None:
    assert yaml_tree.plain_scalar("9" * 5000) == math.inf


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "e.yaml: empty; write at least one key"),
        ("# only this\n", "e.yaml: empty; write at least one key"),
        ("a: 1\na: 2\n", "e.yaml:2:1: a: given twice; first at 1:1"),
        ("a:\n  b: 1\n  c: 2\n  b: 3\n", "e.yaml:4:3: a.b: given twice; first at 2:3"),
        (
            "a: &x 1\nb: *x\n",
            "e.yaml:1:4: anchors and aliases are not supported; write the value out",
        ),
        ("b: *x\n", "e.yaml:1:4: anchors and aliases are not supported; write the value out"),
        ("a: &x {b: *x}", "e.yaml:1:4: anchors and aliases are not supported; write the value out"),
        ("a: !!str 1", "e.yaml:1:4: tags are not supported; omit the word with '!', or quote it"),
        ("a: !x {}", "e.yaml:1:4: tags are not supported; omit the word with '!', or quote it"),
        ("a:\n\tb: 1\n", "e.yaml:2:1: a tab; indent with spaces"),
        ("a: @b\n", "e.yaml:1:4: a text that starts with this character must be quoted"),
        ("a: %b\n", "e.yaml:1:4: a text that starts with this character must be quoted"),
        ("a: 'b\n", "e.yaml:2:1: a quote or bracket is not closed"),
        ("a: [b\n", "e.yaml:2:1: a quote or bracket is not closed"),
        ("a: [b: c: d]\n", "e.yaml:1:9: a ',' or a closing bracket is missing before this"),
        ("a: 1\n---\nb: 2\n", "e.yaml:2:1: a second document ('---'); one file holds one"),
        ("? [a]\n: 1\n", "e.yaml:1:3: a list or mapping cannot be a key"),
        (
            "a: b: c\n",
            "e.yaml:1:5: a ':' that cannot stand here; quote the text, or check the indentation",
        ),
        (
            "a: 1\n  b: 2\n",
            "e.yaml:2:4: a ':' that cannot stand here; quote the text, or check the indentation",
        ),
        (
            "a:\n    b: 1\n  c: 2\n",
            "e.yaml:3:3: not indented like the lines before it, or a quote is misplaced",
        ),
        ("a: 1\nb\n", "e.yaml:3:1: no ':' after the key before this"),
        ("a: 1\nb: \x07\n", "e.yaml:2:4: the character U+0007 is not allowed in YAML"),
        ("[" * 5000, "e.yaml: lists and mappings are nested too deeply"),
    ],
)
def test_what_is_no_plain_yaml_gets_one_sentence(text: str, problem: str) -> None:
    _, problems = parse(text)

    assert problems == [problem]


@given(st.text(max_size=60))
def test_no_text_breaks_the_reader(text: str) -> None:
    root, problems = parse(text)

    assert root is not None or problems


def test_keys_are_text_as_they_are_written() -> None:
    root, _ = parse("010: a\ntrue: b\nno: c\n")

    assert root is not None
    assert yaml_tree.to_plain(root) == {"010": "a", "true": "b", "no": "c"}


def test_every_value_knows_its_line_and_column() -> None:
    root, _ = parse("a:\n  b: 1\n  c: [2, {d: 3}]\n")

    assert root is not None
    places = {
        where: str(yaml_tree.location_at(root, where))
        for where in [("a", "b"), ("a", "c", 0), ("a", "c", 1, "d"), ("a", "z"), ("z",)]
    }
    assert places == {
        ("a", "b"): "e.yaml:2:6",
        ("a", "c", 0): "e.yaml:3:7",
        ("a", "c", 1, "d"): "e.yaml:3:14",
        ("a", "z"): "e.yaml:2:3",
        ("z",): "e.yaml:1:1",
    }
    assert str(yaml_tree.key_location_at(root, ("a", "c"))) == "e.yaml:3:3"
    assert str(yaml_tree.key_location_at(root, ("a", "c", 1))) == "e.yaml:3:10"


values = st.one_of(
    st.integers(), st.booleans(), st.text("xyz", max_size=3), st.lists(st.integers(), max_size=2)
)
mappings = st.recursive(
    st.dictionaries(st.sampled_from("abc"), values, max_size=3),
    lambda inside: st.dictionaries(st.sampled_from("abc"), st.one_of(values, inside), max_size=3),
    max_leaves=8,
)


def build(value: object, source: Source) -> yaml_tree.Node:
    location = yaml_tree.Location(source)
    if isinstance(value, dict):
        return yaml_tree.MapNode(
            location,
            {key: yaml_tree.Entry(location, build(item, source)) for key, item in value.items()},
        )
    if isinstance(value, list):
        return yaml_tree.ListNode(location, tuple(build(item, source) for item in value))
    return yaml_tree.ScalarNode(location, value, str(value))


def leaves(value: object, where: tuple[str, ...] = ()) -> dict[tuple[str, ...], object]:
    if isinstance(value, dict) and value:
        return {k: v for key, item in value.items() for k, v in leaves(item, (*where, key)).items()}
    return {where: value}


@given(mappings, mappings)
def test_each_value_of_the_upper_layer_counts_and_keeps_its_source(
    below: dict, above: dict
) -> None:
    lower, upper = (Source("recipe", "r", Path("/r")), Source("--set", "s", Path("/s"), 1))

    merged = yaml_tree.merge(build(below, lower), build(above, upper))

    for where, value in leaves(above).items():
        node = yaml_tree.find(merged, where)
        assert node is not None
        if value != {}:
            assert (yaml_tree.to_plain(node), node.location.source.label) == (value, "s")


@given(mappings, mappings)
def test_keys_missing_in_the_upper_layer_stay(below: dict, above: dict) -> None:
    lower, upper = (Source("recipe", "r", Path("/r")), Source("--set", "s", Path("/s"), 1))

    merged = yaml_tree.merge(build(below, lower), build(above, upper))

    for where, value in leaves(below).items():
        over: object = above
        for step in where:
            over = over.get(step) if isinstance(over, dict) else over
            if not isinstance(over, dict):
                break
        if over is None:
            node = yaml_tree.find(merged, where)
            assert node is not None
            assert (yaml_tree.to_plain(node), node.location.source.label) == (value, "r")
