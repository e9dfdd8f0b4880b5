"""Hold the ranks of the fault tests at a step, and run a test's own lines there.

A profile of the tests puts this folder on PYTHONPATH, as a site may; Python then imports this file
at every start. In ranks alone it wraps each step and each save of the training loop, and the main
function of the other stages, so that a test can hold a run there for as long as it needs and
depends on no machine's speed. The product does not know it.

    $FAULT_HOOKS/<experiment's name>/hold    a number of steps: no step after them begins before the
                                            rank is asked to stop; with "deaf" behind it, not even
                                            then
    $FAULT_HOOKS/<experiment's name>/hold-<stage>    other stages do nothing while it is there
    $FAULT_DEVICE                           the device of the ranks, whatever the profile has: nodes
                                            without GPUs then train as if they had those that a
                                            stand-in of NVML reports
    $FAULT_HOOKS/<experiment's name>/hooks.py    may define before_step(trainer) and
                                            before_save(trainer); FOLDER is the folder it lies in
"""

import importlib.abc
import importlib.machinery
import os
import sys
import time
from pathlib import Path

WRAPPED = {
    "pretrain": ("jobs.engine.trainer", "Trainer"),
    "finetune": ("jobs.engine.trainer", "Trainer"),
    "tokenize": ("jobs.stages.tokenize_corpus", "encode_stretch"),
    "evaluate": ("jobs.stages.evaluate", "score"),
}
"""By stage, a module and the name in it that is wrapped once it is loaded."""
DEVICE_MODULE = "jobs.engine.device"
POLL_SECONDS = 0.02


class Wrapping(importlib.abc.MetaPathFinder):
    """A finder that loads a stage's module as Python would, then wraps it."""

    def __init__(self, stage, folder):
        self.stage = stage
        self.folder = folder

    def find_spec(self, name, path, target=None):
        module_name, inner = WRAPPED[self.stage]

        def wrap(module):
            if self.stage in ("pretrain", "finetune"):
                wrap_trainer(getattr(module, inner), self.folder)
            else:
                wrap_function(module, inner, self.folder / f"hold-{self.stage}")

        if name == DEVICE_MODULE and "FAULT_DEVICE" in os.environ:
            return after_loading(name, path, target, replace_device)
        return after_loading(name, path, target, wrap) if name == module_name else None


def after_loading(name, path, target, change):
    """Return the specification of a module that is changed once it is loaded."""
    found = importlib.machinery.PathFinder.find_spec(name, path, target)
    load = found.loader.exec_module

    def load_and_change(module):
        load(module)
        change(module)

    found.loader.exec_module = load_and_change
    return found


def replace_device(module):
    start = module.start
    module.start = lambda kind, *others: start(os.environ["FAULT_DEVICE"], *others)


def wrap_function(module, name, hold):
    function = getattr(module, name)

    def held(*args):
        while hold.exists():
            time.sleep(POLL_SECONDS)
        return function(*args)

    setattr(module, name, held)


def wrap_trainer(trainer, folder):
    lines = {"FOLDER": folder}
    path = folder / "hooks.py"
    exec(compile(path.read_text(), path, "exec"), lines)
    step, save = trainer._train_step, trainer._save

    def held_step(self):
        wait_while_held(self, folder / "hold")
        lines.get("before_step", lambda trainer: None)(self)
        return step(self)

    def hit_save(self):
        lines.get("before_save", lambda trainer: None)(self)
        return save(self)

    trainer._train_step, trainer._save = held_step, hit_save


def wait_while_held(trainer, path):
    while path.exists():
        first, *deaf = path.read_text().split()
        asked = trainer.context.stop or trainer.context.run.stop_file.exists()
        if trainer.step < int(first) or (asked and not deaf):
            return
        time.sleep(POLL_SECONDS)


def wrap_this_rank():
    """Install the finder in a rank (``python -u -m jobs STAGE RUN INDEX``) of a trial only."""
    words = sys.orig_argv[1:6]
    if words[:3] != ["-u", "-m", "jobs"] or words[3] not in WRAPPED:
        return
    folder = Path(os.environ["FAULT_HOOKS"]) / Path(words[4]).name.rsplit("-", 2)[0]
    if folder.exists():
        sys.meta_path.insert(0, Wrapping(words[3], folder))


wrap_this_rank()
