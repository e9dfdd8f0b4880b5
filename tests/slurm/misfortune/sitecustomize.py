"""What befalls the training ranks of the fault tests.

A profile of the tests puts this folder on PYTHONPATH, as a site may; Python then imports this file
at every start. In training ranks alone it wraps each step and each save of the loop, so that a
test can hold the run before a step for as long as it needs (no test depends on how quick the
machine is), and can have its own lines run there. The product knows nothing of it.

    $MISFORTUNE/<experiment's name>/hold    number of a step: none after it is begun; with "deaf",
                                            not even when the rank is asked to stop
    $MISFORTUNE/<experiment's name>/befall.py    may define before_step(trainer) and
                                            before_save(trainer); FOLDER is the folder it lies in
"""

import importlib.abc
import importlib.machinery
import os
import sys
import time
from pathlib import Path

LOOP = "jobs.engine.loop"
POLL_SECONDS = 0.02


class Wrapping(importlib.abc.MetaPathFinder):
    """Finds the training loop as Python would, and wraps it once it is loaded."""

    def __init__(self, folder):
        self.folder = folder

    def find_spec(self, name, path, target=None):
        if name != LOOP:
            return None
        found = importlib.machinery.PathFinder.find_spec(name, path, target)
        load = found.loader.exec_module

        def load_and_wrap(module):
            load(module)
            wrap(module.Trainer, self.folder)

        found.loader.exec_module = load_and_wrap
        return found


def wrap(trainer, folder):
    lines = {"FOLDER": folder}
    path = folder / "befall.py"
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
        number, *deaf = path.read_text().split()
        asked = trainer.context.stop or trainer.context.run.stop_file.exists()
        if trainer.step < int(number) or (asked and not deaf):
            return
        time.sleep(POLL_SECONDS)


def folder_of_this_rank():
    """This rank's trial, or None in any other process: ``python -u -m jobs pretrain RUN INDEX``."""
    words = sys.orig_argv[1:6]
    if words[:4] != ["-u", "-m", "jobs", "pretrain"]:
        return None
    return Path(os.environ["MISFORTUNE"]) / Path(words[4]).name.rsplit("-", 2)[0]


if folder := folder_of_this_rank():
    sys.meta_path.insert(0, Wrapping(folder))
