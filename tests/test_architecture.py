"""The allowed imports between packages, and the modules that a light start must not load."""

from __future__ import annotations

import ast
import functools
import graphlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LIGHT_PACKAGES = (
    "contract", "runtime", "slurm", "health", "checkpoints", "notification", "supervision",
)  # fmt: skip
LIGHT = tuple(f"jobs.{package}" for package in LIGHT_PACKAGES)
HEAVY = {
    "torch", "megatron", "tensorboard", "lm_eval", "datasets", "tokenizers", "pyarrow", "mlflow",
    "wandb", "prometheus_client", "lxml", "ftfy", "py3langid", "gigatoken", "transformers", "vllm",
    "apprise",
}  # fmt: skip
CLI_ONLY = {"meditron_cli", "click", "yaml", "pydantic", "rich", "clusters"}


LOWEST = {"jobs.contract"}
NODE = LOWEST | {"jobs.runtime"}
SHELL = {"meditron_cli", "meditron_cli.errors", "meditron_cli.console", "meditron_cli.services"}
ROOMS = {f"jobs.supervision.{room}" for room in ("alarms", "ranks", "diagnosis", "recovery")}
ALLOWED: dict[str, set[str]] = {
    "jobs.contract": {"jobs"},
    "jobs.runtime": LOWEST,
    "jobs.slurm": NODE,
    "jobs.checkpoints": NODE,
    "jobs.data": NODE,
    "jobs.health": NODE | {"jobs.slurm"},
    "jobs.supervision.alarms": NODE | {"jobs.health", "jobs.notification", "jobs.supervision"},
    "jobs.notification": NODE,
    "jobs.supervision.ranks": NODE | {"jobs.slurm", "jobs.supervision"},
    "jobs.supervision.diagnosis": NODE
    | {"jobs.slurm", "jobs.health", "jobs.checkpoints"}
    | {"jobs.supervision", "jobs.supervision.ranks"},
    "jobs.supervision.recovery": NODE
    | {"jobs.slurm", "jobs.health", "jobs.notification"}
    | {"jobs.supervision", "jobs.supervision.diagnosis"},
    "jobs.supervision": NODE
    | {"jobs.slurm", "jobs.health", "jobs.checkpoints", "jobs.notification"}
    | ROOMS,
    "jobs.corpus": NODE | {"jobs.data", "jobs.corpus.formats"},
    "jobs.corpus.formats": NODE | {"jobs.data", "jobs.corpus"},
    "jobs.tokenization": NODE | {"jobs.data"},
    "jobs.conversion": NODE | {"jobs.checkpoints", "jobs.data"},
    "jobs.engine": NODE | {"jobs.checkpoints", "jobs.data", "jobs.engine.saving"},
    "jobs.engine.saving": NODE | {"jobs.checkpoints", "jobs.engine"},
    "jobs.questions": NODE | {"jobs.data"},
    "jobs.prompts": NODE | {"jobs.data", "jobs.questions"},
    "jobs.finetuning": NODE
    | {"jobs.corpus", "jobs.data", "jobs.prompts", "jobs.questions", "jobs.tokenization"},
    "jobs.evaluation": NODE
    | {"jobs.checkpoints", "jobs.data", "jobs.engine", "jobs.prompts", "jobs.questions"}
    | {"jobs.generation"},
    "jobs.generation": NODE,
    "jobs.judging": NODE | {"jobs.data", "jobs.evaluation", "jobs.generation", "jobs.questions"},
    "jobs.verification": NODE | {"jobs.checkpoints", "jobs.data", "jobs.conversion", "jobs.engine"},
    "jobs.selftest": NODE | {"jobs.checkpoints", "jobs.data", "jobs.engine", "jobs.engine.saving"},
    "jobs.stages": NODE
    | {
        "jobs.checkpoints",
        "jobs.conversion",
        "jobs.corpus",
        "jobs.corpus.formats",
        "jobs.data",
        "jobs.engine",
        "jobs.evaluation",
        "jobs.finetuning",
        "jobs.generation",
        "jobs.judging",
        "jobs.prompts",
        "jobs.questions",
        "jobs.selftest",
        "jobs.tokenization",
        "jobs.verification",
        "jobs.health",
    },
    "meditron_cli.config": LOWEST | {"meditron_cli.errors"},
    "meditron_cli.hub": LOWEST | {"meditron_cli", "meditron_cli.errors", "meditron_cli.config"},
    "meditron_cli.plan": LOWEST | {"meditron_cli.errors", "meditron_cli.config"},
    "meditron_cli.sample": LOWEST,
    "meditron_cli.scheduler": NODE
    | {"jobs.slurm", "jobs.supervision.ranks", "jobs.checkpoints"}
    | {"meditron_cli.plan", "meditron_cli.errors"},
    "meditron_cli.inputs": LOWEST
    | {"jobs.checkpoints", "jobs.conversion", "jobs.data", "jobs.prompts", "jobs.questions"}
    | {"jobs.evaluation", "jobs.judging", "jobs.notification", "jobs.runtime"}
    | {"meditron_cli.config", "meditron_cli.errors", "meditron_cli.plan"},
    "meditron_cli.runs": LOWEST
    | {
        "jobs",
        "clusters",
        "jobs.slurm",
        "jobs.health",
        "jobs.checkpoints",
        "jobs.conversion",
        "jobs.data",
        "jobs.evaluation",
        "jobs.notification",
        "jobs.supervision.recovery",
    }
    | {"meditron_cli.plan", "meditron_cli.config", "meditron_cli.inputs", "meditron_cli.scheduler"}
    | SHELL,
    "meditron_cli.reporting": LOWEST
    | {"jobs.data", "jobs.evaluation", "jobs.health", "jobs.slurm", "jobs.tokenization"}
    | {"meditron_cli.runs", "meditron_cli.scheduler"}
    | SHELL,
    "meditron_cli.profiling": NODE,
    "meditron_cli.tracking": LOWEST | {"meditron_cli.runs"} | SHELL,
    "jobs": NODE,
    "clusters": set(),
}
"""The packages that the modules of each package may import, beside their own."""
TOP = {
    "meditron_cli.examples",
    "meditron_cli.main",
    "meditron_cli.__main__",
    "meditron_cli.commands",
    "meditron_cli.doctor",
    "meditron_cli.drill",
    "meditron_cli.rehearsal",
    "meditron_cli.selftest",
}
"""May import whatever lies below."""


@functools.cache
def modules() -> dict[str, Path]:
    """Name and file of every module of the three packages."""
    found = {}
    for package in ("meditron_cli", "jobs", "clusters"):
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            found[name] = path
    return found


@functools.cache
def imports(path: Path, top_only: bool) -> tuple[str, ...]:
    """Modules a file imports; with ``top_only`` only those loaded with it."""
    tree = ast.parse(path.read_text())
    found: list[str] = []
    for node in run_on_import(tree.body) if top_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            found += (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += (f"{node.module}.{alias.name}" for alias in node.names)
    return tuple(found)


def run_on_import(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements that run when a module is loaded; blocks for type checkers do not."""
    for node in body:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield node
        for name in ("body", "orelse", "handlers", "finalbody"):
            if not isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.AsyncFunctionDef)):
                yield from run_on_import(getattr(node, name, []))


def known(name: str, names: set[str]) -> str | None:
    """Return the module of ours that an imported name means."""
    while name and name not in names:
        name = name.rpartition(".")[0]
    return name or None


def roots(path: Path, top_only: bool) -> set[str]:
    return {name.split(".")[0] for name in imports(path, top_only)}


def test_the_node_side_never_imports_the_login_side() -> None:
    for name, path in modules().items():
        if name.split(".")[0] == "jobs":
            assert not roots(path, top_only=False) & CLI_ONLY, name


def test_the_login_node_and_the_batch_step_load_nothing_heavy() -> None:
    for name, path in modules().items():
        if name.startswith(("meditron_cli", *LIGHT)):
            allowed = {"tokenizers"} if name == "meditron_cli.sample.train_tokenizer" else set()
            assert not (roots(path, top_only=True) & HEAVY) - allowed, name


def test_only_the_engine_imports_megatron() -> None:
    users = [name for name, path in modules().items() if "megatron" in roots(path, top_only=False)]

    assert all(name.startswith("jobs.engine.") for name in users), users


def test_only_the_configuration_imports_pydantic_and_yaml() -> None:
    for name, path in modules().items():
        if roots(path, top_only=False) & {"pydantic", "yaml"}:
            assert name.startswith("meditron_cli.config"), name


def test_planning_is_pure() -> None:
    effects = {"os", "subprocess", "time", "yaml", "socket", "shutil"}
    for name, path in modules().items():
        if name.startswith("meditron_cli.plan"):
            assert not roots(path, top_only=False) & effects, name


@functools.cache
def edges() -> dict[str, set[str]]:
    """Return the modules that each of ours imports, inside functions too."""
    names = set(modules())
    return {
        name: {target for item in imports(path, top_only=False) if (target := known(item, names))}
        - {name}
        for name, path in modules().items()
    }


@functools.cache
def package(name: str) -> str:
    """Return the package that a module belongs to, the innermost one."""
    keys = {*ALLOWED, *TOP, *SHELL}
    fitting = [key for key in keys if name == key or name.startswith(f"{key}.")]
    return max(fitting, key=len, default=name)


def test_a_module_imports_only_what_its_package_may() -> None:
    for name, targets in edges().items():
        own = package(name)
        used = {package(target) for target in targets} - {own}
        assert own in TOP | SHELL or not used - ALLOWED[own], f"{name} imports {sorted(targets)}"


def test_stages_do_not_import_each_other() -> None:
    for name, targets in edges().items():
        if name.startswith("jobs.stages."):
            assert not {t for t in targets if t.startswith("jobs.stages.")}, name


NAMES_PRETRAIN = {
    "jobs.contract.stage_specs.kinds",
    "meditron_cli.commands.report",
    "meditron_cli.config.load",
    "meditron_cli.drill.settings",
    "meditron_cli.drill.training",
    "meditron_cli.plan.stages",
    "meditron_cli.reporting.report",
}
"""Modules that mean pretraining itself: tables of stages, keys of files, the drill's training."""


def test_who_means_any_training_stage_does_not_name_pretraining() -> None:
    """`TRAINING_STAGES` lists them, so that another one is added in one place."""
    names = {name for name, path in modules().items() if '"pretrain"' in path.read_text()}

    assert names == NAMES_PRETRAIN


def test_no_modules_import_each_other() -> None:
    assert list(graphlib.TopologicalSorter(edges()).static_order())


def test_no_folder_holds_more_than_twenty_modules() -> None:
    for folder in {path.parent for path in modules().values()}:
        count = len([path for path in folder.glob("*.py") if path.name != "__init__.py"])
        assert count <= 20 or folder.name == "commands", folder


@pytest.mark.parametrize("command", [["--help"], ["status"]])
def test_a_light_start_loads_nothing_heavy(command: list[str], tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from meditron_cli.main import main\n"
        "try:\n"
        f"    main({command!r})\n"
        "except SystemExit as end:\n"
        "    assert end.code == 0, end.code\n"
        "heavy = {'torch', 'submitit', 'numpy', 'pydantic'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )

    assert done.returncode == 0, done.stderr
