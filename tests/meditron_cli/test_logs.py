"""`meditron logs`."""

from __future__ import annotations

from collections.abc import Callable

from ..conftest import Bench


def write(meditron: Bench, stage: str, attempt: int, name: str, text: str) -> None:
    folder = meditron.run().attempt(stage, attempt)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / name).open("a") as file:
        file.write(text)


def test_each_file_is_headed_by_its_name(meditron: Bench) -> None:
    meditron.submit(stage="curate")
    write(meditron, "curate", 1, "101_0.out", "one\ntwo\n")
    write(meditron, "curate", 1, "ranks-00000.log", "three")
    write(meditron, "curate", 1, "exit-00000.json", "{}")

    result = meditron("logs", meditron.run().name)

    assert result.stdout == (
        "==> stages/curate/attempts/1/101_0.out <==\none\ntwo\n"
        "==> stages/curate/attempts/1/ranks-00000.log <==\nthree\n"
    )


def test_the_newest_attempt_is_printed_unless_another_is_named(meditron: Bench) -> None:
    meditron.submit(stage="curate")
    write(meditron, "curate", 1, "a.log", "first\n")
    write(meditron, "curate", 2, "a.log", "second\n")
    name = meditron.run().name

    assert meditron("logs", name).stdout.splitlines()[1:] == ["second"]
    assert meditron("logs", name, "--attempt", "1").stdout.splitlines()[1:] == ["first"]


def test_no_logs_yet_is_said(meditron: Bench) -> None:
    meditron.submit(stage="curate")
    name = meditron.run().name

    result = meditron("logs", name, "--stage", "pretrain")

    assert result.exit_code == 2
    assert result.stderr == (
        f"error: run {name} has no logs of pretrain yet\n"
        f"hint: `meditron status {name}` says what it waits for\n"
    )


def test_following_prints_what_comes_until_the_run_has_ended(
    meditron: Bench, finish: Callable[..., None]
) -> None:
    meditron.submit(stage="curate")
    write(meditron, "curate", 1, "a.log", "begin\n")
    texts = iter(["more\n", "end\n"])

    def work() -> None:
        text = next(texts, None)
        if text is None:
            finish(meditron.run(), "curate", 0)
        else:
            write(meditron, "curate", 1, "a.log", text)

    meditron.clock.when_slept = work

    result = meditron("logs", meditron.run().name, "--follow")

    assert result.exit_code == 0
    assert result.stdout.splitlines()[1:] == ["begin", "more", "end"]
