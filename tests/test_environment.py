"""The packaging is whole: environments agree with each other, and the wheel works where nothing
but its declared dependencies can be imported.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from setuptools import find_packages

from meditron_cli import __version__

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # comes with pytest there

ROOT = Path(__file__).parents[1]
PACKAGES = ("meditron_cli", "jobs", "clusters")
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS: dict[str, list[str]] = PROJECT["project"]["optional-dependencies"]


def requirements(*extras: str) -> Iterator[Requirement]:
    """Yield the requirements of the base or of extras; references to ourselves are followed."""
    texts = [text for extra in extras for text in EXTRAS[extra]]
    for text in texts if extras else PROJECT["project"]["dependencies"]:
        requirement = Requirement(text)
        if requirement.name == PROJECT["project"]["name"]:
            yield from requirements(*requirement.extras)
        else:
            yield requirement


def conda() -> list[Any]:
    found: list[Any] = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    return found


def conda_pip() -> list[str]:
    """Return the packages that conda's environment installs by pip."""
    lists: list[list[str]] = [item["pip"] for item in conda() if isinstance(item, dict)]
    return lists[0]


def torch_of_the_makefile() -> str:
    match = re.search(r"^TORCH := (torch==\S+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert match
    return match[1]


def test_the_conda_environment_has_the_python_that_is_type_checked_and_promised() -> None:
    [python] = [item for item in conda() if str(item).startswith("python=")]
    version = python.removeprefix("python=")

    assert version == PROJECT["tool"]["mypy"]["python_version"]
    assert version in SpecifierSet(PROJECT["project"]["requires-python"])


def test_the_conda_environment_installs_the_tested_torch_and_every_run_time_extra() -> None:
    assert conda_pip() == [torch_of_the_makefile(), "--editable .[all]"]
    beside = {"all", "dev", "mlflow", "wandb", "serve"}
    assert set(requirements("all")) == set(requirements(*(EXTRAS.keys() - beside)))


def test_environments_for_gpus_name_no_architecture() -> None:
    for name in ("environment.yml", "containers/kernels.txt", "containers/Dockerfile"):
        lines = (ROOT / name).read_text().splitlines()
        code = "\n".join(line.partition("#")[0] for line in lines)
        assert not re.findall(r"linux-64|x86|amd64|aarch64|arm64", code, re.IGNORECASE), name


def kernels() -> dict[str, Requirement]:
    """Return the packages of GPU kernels that are built into an environment, by name."""
    lines = (ROOT / "containers/kernels.txt").read_text().splitlines()
    found = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {item.name: item for item in found}


def test_transformer_engine_is_a_version_that_megatron_core_names() -> None:
    named = map(Requirement, metadata.requires("megatron-core") or [])
    [wanted] = [item for item in named if item.name == "transformer-engine"]

    [pin] = kernels()["transformer-engine"].specifier

    assert pin.operator == "=="
    assert pin.version in wanted.specifier
    assert wanted.extras == kernels()["transformer-engine"].extras


def test_flash_attn_is_no_newer_than_transformer_engine_uses() -> None:
    [pin] = kernels()["flash-attn"].specifier

    assert (pin.operator, pin.version) == ("==", "2.8.3"), "2.8.3.post1 counts as newer"


def test_the_conda_environment_has_a_cuda_of_the_version_that_kernels_are_built_for() -> None:
    [cuda] = [item for item in conda() if str(item).startswith("cuda-version=")]
    major = cuda.removeprefix("cuda-version=").partition(".")[0]

    assert f"core_cu{major}" in kernels()["transformer-engine"].extras


def test_the_conda_environment_has_what_the_builds_of_kernels_import() -> None:
    """Without build isolation pip installs nothing for them. As read in the sources of both:
    setup.py of transformer-engine-torch 2.11.0 and of flash-attn 2.8.3.
    """
    here = {Requirement(item).name for item in conda() if isinstance(item, str) and "=" not in item}

    assert here >= {"packaging", "wheel", "ninja", "cxx-compiler", "cuda-nvcc"}
    assert "psutil" in {item.name for item in requirements("all")}


def test_the_image_has_every_run_time_extra_and_no_code_of_ours() -> None:
    recipe = (ROOT / "containers/Dockerfile").read_text()

    assert '"/src/meditron[all]"' in recipe
    assert recipe.index("pip uninstall --yes meditron") > recipe.index("[all]")


def test_the_tested_torch_satisfies_the_extra_that_requires_it() -> None:
    [wanted] = [item for item in requirements("train") if item.name == "torch"]

    assert torch_of_the_makefile().partition("==")[2] in wanted.specifier


def test_the_constraints_pin_every_direct_dependency_to_a_version_it_may_have() -> None:
    pairs = [line.split("==") for line in (ROOT / ".ci/constraints.txt").read_text().split()]
    pins = {str(canonicalize_name(name)): version for name, version in pairs}
    pins["torch"] = torch_of_the_makefile().partition("==")[2]

    # vLLM pins a torch of its own, so that it has another environment than the tests.
    direct = [*requirements(), *requirements(*(EXTRAS.keys() - {"serve"}))]

    wrong = [
        str(item)
        for item in direct
        if pins.get(canonicalize_name(item.name), "") not in item.specifier
    ]
    assert wrong == []


HEADERS = ("library", "candidate")
"""First columns of the tables of the page."""


def test_every_dependency_has_its_reason() -> None:
    page = (ROOT / "docs/dependencies.md").read_text()
    rows = re.findall(r"^\| ([\w.-]+) \| ([a-z, ]+) \| .+ \|$", page, re.MULTILINE)
    explained = {name: set(extras.split(", ")) for name, extras in rows if name not in HEADERS}

    asked: dict[str, set[str]] = {}
    for extra in ("base", *(EXTRAS.keys() - {"all"})):
        for item in requirements(*({extra} - {"base"})):
            asked.setdefault(item.name, set()).add(extra)

    assert explained == asked


def test_the_list_of_packages_is_every_folder_with_an_init() -> None:
    folders = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for package in PACKAGES
        for path in (ROOT / package).rglob("__init__.py")
    }

    include = PROJECT["tool"]["setuptools"]["packages"]["find"]["include"]

    assert set(find_packages(str(ROOT), include=include)) == folders


def test_the_license_is_apache_2() -> None:
    first, second = (ROOT / "LICENSE").read_text().split("\n", 3)[1:3]

    assert PROJECT["project"]["license"] == "Apache-2.0"
    assert first.strip() == "Apache License"
    assert second.strip() == "Version 2.0, January 2004"


def test_the_version_is_written_alike_in_both_places() -> None:
    assert PROJECT["project"]["version"] == __version__


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the wheel, built from a copy, without network."""
    folder = tmp_path_factory.mktemp("build")
    for name in PACKAGES:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    done = subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "."],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    [path] = (folder / "dist").iterdir()
    return path


@pytest.fixture(scope="module")
def bare_environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a virtual environment's ``bin`` with the wheel and the base dependencies alone.

    These are links to the ones installed here; what they do not ask for is not there.
    """
    folder = tmp_path_factory.mktemp("bare") / "venv"
    python = folder / "bin/python"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    [site] = (folder / "lib").glob("python*/site-packages")
    for name in closure(requirements()):
        link(metadata.distribution(name), site)
    install = ["pip", "--python", str(python), "install", "--no-deps", "--no-index", "--quiet"]
    subprocess.run([sys.executable, "-m", *install, str(wheel)], check=True)
    return folder / "bin"


def closure(wanted: Iterator[Requirement]) -> set[str]:
    """Names of the distributions that requirements lead to."""
    names: set[str] = set()
    waiting = list(wanted)
    while waiting:
        item = waiting.pop()
        if item.name in names or (item.marker and not item.marker.evaluate({"extra": ""})):
            continue
        names.add(item.name)
        waiting += map(Requirement, metadata.requires(item.name) or [])
    return names


def link(distribution: metadata.Distribution, site: Path) -> None:
    """Make an installed distribution importable from another site-packages."""
    for top in {file.parts[0] for file in distribution.files or []} - {"..", "__pycache__"}:
        if not (site / top).exists():
            (site / top).symlink_to(Path(str(distribution.locate_file(top))))


def start(command: list[Path | str], folder: Path) -> subprocess.CompletedProcess[str]:
    kept = {"PATH", "LANG", "LC_ALL"}
    environ = {name: value for name, value in os.environ.items() if name in kept}
    return subprocess.run(
        command,
        cwd=folder,
        env={**environ, "HOME": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_wheel_holds_every_data_file_and_no_test(wheel: Path) -> None:
    held = set(zipfile.ZipFile(wheel).namelist())

    data = {
        str(path.relative_to(ROOT))
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert data - held == set()
    assert [name for name in held if name.split("/")[0] == "tests"] == []


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (("meditron", "--help"), "submit"),
        (("meditron", "clusters"), "generic-h100"),
        (("meditron", "plan", "pretrain", "--cluster", "rcp", "--size", "70b"), "128 ranks"),
        (("meditron", "init", "starter"), ""),
        (("python", "-m", "jobs", "--help"), "{clean,"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_the_wheel_works_in_an_empty_folder_without_extras(
    bare_environment: Path, tmp_path: Path, command: tuple[str, ...], expected: str
) -> None:
    done = start([bare_environment / command[0], *command[1:]], tmp_path)

    assert done.returncode == 0, done.stderr
    assert expected in done.stdout


@pytest.mark.parametrize("library", ["torch", "numpy", "megatron", "tokenizers", "lm_eval"])
def test_the_bare_environment_has_none_of_the_heavy_libraries(
    bare_environment: Path, tmp_path: Path, library: str
) -> None:
    done = start([bare_environment / "python", "-c", f"import {library}"], tmp_path)

    assert f"No module named '{library}'" in done.stderr
