"""A real Slurm of eight nodes on one host: its own munge, MariaDB, slurmdbd, slurmctld and slurmds.

The tests boot one for a session (``conftest.py``); by hand it is

    python tests/slurm/cluster.py up [--dir DIR]       # then: export SLURM_CONF=DIR/etc/slurm.conf
    python tests/slurm/cluster.py status | env | down

Nothing of the host's own Slurm, munge or MariaDB is read, started or stopped. All files lie below
one folder, and the ports are chosen free at each start, so that two clusters can live side by
side. All addresses are 127.0.0.1; Slurm's daemons listen on every interface, since only an address
of the host's own name would do for the narrower setting, but answer none without our munge key.

    cluster.json   ports and process ids, written after each daemon that starts
    etc/           the filled-in templates/, and munge.key
    log/           NAME.out: what a daemon printed; NAME.log: the same with times (Slurm's)
    run/ state/ spool/NODE/ database/ dev/
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import random
import secrets
import shutil
import signal
import socket
import stat
import string
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypedDict, cast

import psutil

HERE = Path(__file__).resolve().parent
GPU_NODES = ("gpu01", "gpu02", "gpu03", "gpu04", "gpu05", "gpu06")
CPU_NODES = ("cpu01", "cpu02")
NODES = GPU_NODES + CPU_NODES
SERVICES = ("munged", "mariadbd", "slurmdbd", "slurmctld")
GPUS_PER_NODE = 4
PATIENCE = 240.0
"""Seconds that a wait may take on a busy machine."""
PROGRAMS = (*SERVICES, "slurmd", "mariadb-install-db", "sbatch", "srun")
# A Unix socket's path holds 107 characters; a step's is FOLDER/spool/gpu01/gpu01_JOB.STEP.
LONGEST_FOLDER = 68
# Below the range Linux hands out for outgoing connections, so that none takes a port meanwhile.
PORT_RANGE = range(20000, 32000)
# States a job does not leave by itself.
FINAL_STATES = frozenset({"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT"})
# What an outer job or a user's settings would bring into commands for this cluster.
FOREIGN_PREFIXES = (
    "SLURM",
    "SRUN_",
    "SBATCH_",
    "SALLOC_",
    "SQUEUE_",
    "SINFO_",
    "SACCT_",
    "SCONTROL_",
    "SUBMITIT_",
    "PMI_",
    "PMIX_",
)


class ClusterError(Exception):
    """A test Slurm that cannot be installed or started, or a command that it refused, with why."""


class State(TypedDict):
    """The content of ``cluster.json``: what a second process needs to use or stop the cluster."""

    format: int
    owner: int | None
    first_port: int
    pids: dict[str, int]


class Cluster:
    """A Slurm below one folder; a second object on the same folder uses the same cluster."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.conf = self.folder / "etc" / "slurm.conf"
        self._children: dict[str, subprocess.Popen[bytes]] = {}

    # ---- what tests and people use

    @property
    def env(self) -> dict[str, str]:
        """Return this process's environment without another Slurm's, with ``SLURM_CONF``."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(FOREIGN_PREFIXES)}
        return {**kept, "PATH": _search_path(), "SLURM_CONF": str(self.conf)}

    @property
    def exists(self) -> bool:
        """Return whether this class made the folder, its daemons running or not."""
        return self._state_file.exists()

    @property
    def is_up(self) -> bool:
        """Return whether every daemon runs."""
        pids = self._state()["pids"]
        return len(pids) == len(SERVICES) + len(NODES) and all(self._process(name) for name in pids)

    @property
    def has_gpu_devices(self) -> bool:
        """Return whether fake GPUs are character devices, so that jobs get CUDA_VISIBLE_DEVICES."""
        return stat.S_ISCHR((self.folder / "dev" / "gpu0").stat().st_mode)

    def start(self, owner: int | None = None) -> None:
        """Boot the cluster and return when all nodes are idle.

        ``owner`` is the process the cluster should not outlive (see `remove_orphans`).

        Raises:
            ClusterError: the folder is in use or unsuitable, or a daemon did not come up.
        """
        _check_folder(self.folder)
        self._prepare(owner)
        try:
            self._boot()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End all daemons, last started first, and every process of their jobs; keep the files."""
        slurmds = [p for node in NODES if (p := self._process(f"slurmd-{node}"))]
        of_jobs = self._job_processes()
        _end(slurmds)
        _end({*of_jobs, *self._job_processes()}, signal.SIGKILL)
        for name in reversed(SERVICES):
            if process := self._process(name):
                _end([process])
        for child in self._children.values():
            child.wait()
        self._children.clear()

    def remove(self) -> None:
        """Delete the folder; only one that this class made."""
        if self.exists:
            shutil.rmtree(self.folder)

    def run(self, *command: str | Path, timeout: float = PATIENCE, check: bool = True) -> str:
        """Run a command against this cluster and return its stdout.

        Raises:
            ClusterError: the command failed (unless ``check`` is off) or took over ``timeout`` s.
        """
        words = [str(word) for word in command]
        try:
            done = subprocess.run(
                words, env=self.env, capture_output=True, text=True, timeout=timeout, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise ClusterError(f"{' '.join(words)}: no end after {timeout:g} s") from error
        if check and done.returncode != 0:
            output = (done.stderr.strip() or done.stdout.strip())[-2000:]
            raise ClusterError(f"{' '.join(words)}: exit {done.returncode}: {output}")
        return done.stdout

    def submit(self, script: str, *options: str) -> int:
        """Submit shell text with sbatch and its options, and return the job's id."""
        answer = self.run("sbatch", "--parsable", *options, "--wrap", script)
        return int(answer.strip().split(";")[0])

    def job_states(self, job_id: int | str) -> tuple[str, ...]:
        """Return a job's states, one per element of an array."""
        answer = self.run("squeue", "-h", "-r", "-t", "all", "-o", "%T", "-j", str(job_id))
        return tuple(answer.split())

    def wait_job(
        self, job_id: int | str, states: str | Iterable[str], timeout: float = PATIENCE
    ) -> None:
        """Wait until the job, or every element of the array, is in one of ``states``.

        Raises:
            ClusterError: it ended otherwise, or ``timeout`` seconds went by.
        """
        wanted = {states} if isinstance(states, str) else set(states)
        deadline = time.monotonic() + timeout
        while True:
            seen = self.job_states(job_id)
            if seen and set(seen) <= wanted:
                return
            if (seen and set(seen) <= FINAL_STATES) or time.monotonic() > deadline:
                break
            time.sleep(0.3)
        details = self.run("scontrol", "show", "job", "-o", str(job_id), check=False)
        raise ClusterError(
            f"job {job_id} is {', '.join(seen) or 'unknown'}, not {' or '.join(sorted(wanted))}\n"
            f"{details}{self._tail('slurmctld')}"
        )

    def cancel_all(self) -> None:
        """Cancel every job and wait until none is left, so that a failed test hinders no other."""
        jobs = self.run("squeue", "-h", "-o", "%A").split()
        if jobs:
            self.run("scancel", *jobs)
        self.wait_nodes(NODES, ["idle"])

    def node_states(self) -> dict[str, str]:
        """Return each node's state, such as ``idle``; a trailing ``*`` means no response."""
        lines = self.run("sinfo", "-h", "-N", "-o", "%N %T").splitlines()
        return dict(line.split() for line in lines)

    def wait_nodes(
        self, nodes: Iterable[str], states: Iterable[str], timeout: float = PATIENCE
    ) -> None:
        """Wait until each of ``nodes`` is in one of ``states``.

        Raises:
            ClusterError: ``timeout`` seconds went by.
        """
        names, wanted = tuple(nodes), set(states)
        deadline = time.monotonic() + timeout
        while not {(seen := self.node_states()).get(node) for node in names} <= wanted:
            if time.monotonic() > deadline:
                raise ClusterError(f"nodes after {timeout:g} s: {seen}\n{self._tail('slurmctld')}")
            time.sleep(0.2)

    def kill_slurmd(self, node: str) -> None:
        """Kill -9 one node's slurmd; its jobs' processes run on, as they do on a real node."""
        if process := self._process(f"slurmd-{node}"):
            _end([process], signal.SIGKILL)

    def start_slurmd(self, node: str, rebooted: bool = False) -> None:
        """Start one node's slurmd; the node registers by itself.

        Args:
            node: its name.
            rebooted: the node reports that it has booted now (slurmd(8), ``-b``).
        """
        options = ["-b"] if rebooted else []
        self._spawn(f"slurmd-{node}", "slurmd", "-D", "-f", str(self.conf), "-N", node, *options)

    def kill_node(self, node: str) -> None:
        """Kill a node's slurmd and every process of its jobs, as a loss of power does."""
        doomed = [p for p in self._job_processes() if _is_on(p, node)]
        self.kill_slurmd(node)
        _end(doomed, signal.SIGKILL)

    def stop_service(self, name: str) -> None:
        """Stop ``slurmctld`` or ``slurmdbd``; jobs run on."""
        if process := self._process(name):
            _end([process])

    def start_slurmctld(self) -> None:
        """Start a controller that was stopped, and wait until it answers."""
        self._spawn("slurmctld", "slurmctld", "-D", "-f", str(self.conf))
        self._wait("slurmctld", lambda: "UP" in self.run("scontrol", "ping", check=False))

    def start_slurmdbd(self) -> None:
        """Start the accounting again, and wait until it answers."""
        self._spawn("slurmdbd", "slurmdbd", "-D")
        self._wait("slurmdbd", lambda: _answers(self._state()["first_port"] + 1))

    def update_partition(self, name: str, **settings: str) -> None:
        """Change a partition (``GraceTime="60"``) until the next reconfiguration."""
        words = [f"{key}={value}" for key, value in settings.items()]
        self.run("scontrol", "update", f"PartitionName={name}", *words)

    def set_config(self, **settings: str | None) -> dict[str, str | None]:
        """Change lines of slurm.conf (None removes one), reconfigure, and return the old values.

        To put it back: ``set_config(**before)``. For a node or a partition, which all share one
        key, use ``scontrol update``.
        """
        before = dict.fromkeys(settings, None) | {
            key: value
            for key, _, value in (line.partition("=") for line in self._conf_lines())
            if key in settings
        }
        kept = [line for line in self._conf_lines() if line.partition("=")[0] not in settings]
        new = [f"{key}={value}" for key, value in settings.items() if value is not None]
        _write(self.conf, "\n".join([*kept, *new]) + "\n")
        self.run("scontrol", "reconfigure")
        return before

    # ---- start

    def _prepare(self, owner: int | None) -> None:
        """Make the folder with all settings, the key and the devices; no process yet."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o755)  # jobs of other users reach the munge socket and slurm.conf
        self._write_state(State(format=1, owner=owner, first_port=_free_ports(), pids={}))
        for name in ("etc", "log", "run", "state", "dev", *(f"spool/{node}" for node in NODES)):
            (self.folder / name).mkdir(parents=True)
        self._write_settings()
        _make_devices(self.folder / "dev")

    def _write_settings(self) -> None:
        """Fill in the templates, and draw the munge key and the database's password."""
        port = self._state()["first_port"]
        words = {
            "folder": str(self.folder),
            "password": secrets.token_hex(16),
            "slurmctld_port": port,
            "slurmdbd_port": port + 1,
            "mariadb_port": port + 2,
            "gpu_ports": f"{port + 3}-{port + 2 + len(GPU_NODES)}",
            "cpu_ports": f"{port + 3 + len(GPU_NODES)}-{port + 2 + len(NODES)}",
        }
        for name in ("slurm.conf", "slurmdbd.conf", "gres.conf", "cgroup.conf", "mariadb.sql"):
            template = string.Template((HERE / "templates" / name).read_text())
            mode = 0o600 if name in ("slurmdbd.conf", "mariadb.sql") else 0o644
            _write(self.folder / "etc" / name, template.substitute(words), mode)
        _write(self.folder / "etc" / "munge.key", secrets.token_bytes(1024), 0o400)

    def _boot(self) -> None:
        port = self._state()["first_port"]
        self._start_munged()
        self._start_mariadbd(port + 2)
        # The controller's first start ends at once when it can't ask slurmdbd for its resources.
        self.start_slurmdbd()
        self._spawn("slurmctld", "slurmctld", "-D", "-f", str(self.conf))
        for node in NODES:
            self.start_slurmd(node)
        self._wait("slurmctld", lambda: "UP" in self.run("scontrol", "ping", check=False))
        for node in NODES:
            self._wait(f"slurmd-{node}", functools.partial(self._is_idle, node))

    def _is_idle(self, node: str) -> bool:
        return self.node_states()[node] == "idle"

    def _start_munged(self) -> None:
        run, etc = self.folder / "run", self.folder / "etc"
        self._spawn(
            "munged",
            "munged",
            "--foreground",
            "--force",  # the folder may lie below one that others may write, such as /tmp
            f"--key-file={etc / 'munge.key'}",
            f"--socket={run / 'munge.sock'}",
            f"--pid-file={run / 'munged.pid'}",
            f"--seed-file={run / 'munged.seed'}",
        )
        self._wait("munged", (run / "munge.sock").exists)

    def _start_mariadbd(self, port: int) -> None:
        """Run MariaDB as root: the user mysql could not enter a checkout below /root.

        Its root account answers only to root through the socket; slurmdbd has a drawn password.
        """
        database = f"--datadir={self.folder / 'database'}"
        self.run(
            "mariadb-install-db",
            "--no-defaults",
            "--user=root",
            "--skip-test-db",
            "--auth-root-authentication-method=socket",
            database,
        )
        self._spawn(
            "mariadbd",
            "mariadbd",
            "--no-defaults",
            "--user=root",
            database,
            f"--socket={self.folder / 'run' / 'mariadb.sock'}",
            f"--pid-file={self.folder / 'run' / 'mariadbd.pid'}",
            f"--init-file={self.folder / 'etc' / 'mariadb.sql'}",
            "--bind-address=127.0.0.1",
            f"--port={port}",
            "--skip-name-resolve",
            "--innodb-buffer-pool-size=64M",
            "--innodb-lock-wait-timeout=900",  # what slurmdbd asks for
            "--innodb-flush-log-at-trx-commit=0",
        )
        self._wait("mariadbd", lambda: _answers(port))

    def _spawn(self, name: str, *command: str) -> None:
        """Start a daemon in a session of its own, so that Ctrl-C does not reach it; record it."""
        environment = {"PATH": _search_path(), "LANG": "C.UTF-8", "SLURM_CONF": str(self.conf)}
        with (self.folder / "log" / f"{name}.out").open("ab") as output:
            child = subprocess.Popen(
                command,
                cwd=self.folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        if earlier := self._children.pop(name, None):
            earlier.wait()  # one that a test killed
        self._children[name] = child
        state = self._state()
        state["pids"][name] = child.pid
        self._write_state(state)

    def _wait(self, daemon: str, is_ready: Callable[[], bool], seconds: float = PATIENCE) -> None:
        deadline = time.monotonic() + seconds
        while not is_ready():
            if self._has_ended(daemon):
                raise ClusterError(f"{daemon} ended while starting\n{self._tail(daemon)}")
            if time.monotonic() > deadline:
                raise ClusterError(f"{daemon}: not ready in {seconds:g} s\n{self._tail(daemon)}")
            time.sleep(0.1)

    def _has_ended(self, daemon: str) -> bool:
        """Return whether a daemon that was started has ended.

        A child is asked for by its parent: in the moment of its execve(2) its command line and
        environment in /proc are empty (8 of 3,000 starts, measured), and ``_process`` is None.
        """
        child = self._children.get(daemon)
        return child.poll() is not None if child else self._process(daemon) is None

    # ---- files and processes

    @property
    def _state_file(self) -> Path:
        return self.folder / "cluster.json"

    def _state(self) -> State:
        try:
            text = self._state_file.read_text()
        except FileNotFoundError:
            return State(format=1, owner=None, first_port=0, pids={})
        return cast(State, json.loads(text))

    def _write_state(self, state: State) -> None:
        _write(self._state_file, json.dumps(state, indent=1) + "\n")

    def _conf_lines(self) -> list[str]:
        return self.conf.read_text().splitlines()

    def _tail(self, daemon: str) -> str:
        """Return the end of a daemon's output, for an error's text."""
        path = self.folder / "log" / f"{daemon}.out"
        lines = path.read_text(errors="replace").splitlines()[-15:]
        return "\n".join([f"the end of {path}:", *lines])

    def _process(self, name: str) -> psutil.Process | None:
        """Return a recorded daemon's process if it runs, never one that reused its id."""
        try:
            process = psutil.Process(self._state()["pids"][name])
            is_it = process.name() == name.partition("-")[0] and self._mentions(process)
            return process if is_it else None
        except (KeyError, psutil.Error):
            return None

    def _mentions(self, process: psutil.Process) -> bool:
        words = [*process.cmdline(), *process.environ().values()]
        return any(f"{self.folder}/" in word for word in words)

    def _job_processes(self) -> set[psutil.Process]:
        """Return all processes of this cluster's jobs: step daemons, their children, and strays."""
        found: set[psutil.Process] = set()
        for process in psutil.process_iter():
            try:
                if self._is_of_a_job(process):
                    found |= {process, *process.children(recursive=True)}
            except psutil.Error:
                continue
        this = psutil.Process()
        return found - {this, *this.parents()}

    def _is_of_a_job(self, process: psutil.Process) -> bool:
        if process.name() == "slurmstepd":
            logs = self.folder / "log"
            return any(Path(opened.path).parent == logs for opened in process.open_files())
        environment = process.environ()
        # slurmd sets the second one; a shell that only uses this cluster lacks it.
        return environment.get("SLURM_CONF") == str(self.conf) and "SLURMD_NODENAME" in environment


# ---- installation and orphans


def missing_programs() -> list[str]:
    """Return the programs of the test Slurm that are not installed."""
    return [name for name in PROGRAMS if not shutil.which(name, path=_search_path())]


def ensure_installed() -> None:
    """Install Slurm, munge and MariaDB from Debian where one is missing.

    Raises:
        ClusterError: they cannot be installed here, with the reason.
    """
    if os.geteuid() != 0:
        raise ClusterError("the test Slurm needs root: its daemons run jobs as their owners")
    missing = missing_programs()
    if not missing:
        return
    if not shutil.which("apt-get"):
        raise ClusterError(f"{', '.join(missing)} missing, and this is no Debian to install them")
    print(f"installing Slurm ({', '.join(missing)} missing) ...", file=sys.stderr)
    script = ["sh", str(HERE / "install.sh")]
    done = subprocess.run(script, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ClusterError(f"{HERE / 'install.sh'} failed: {done.stderr.strip()[-2000:]}")


def remove_orphans(parent: Path, prefix: str) -> None:
    """Stop and remove clusters below ``parent`` whose owner was killed."""
    for folder in parent.glob(f"{prefix}*"):
        cluster = Cluster(folder)
        owner = cluster._state()["owner"]
        if owner is not None and not psutil.pid_exists(owner):
            cluster.stop()
            with contextlib.suppress(FileNotFoundError):  # another session removes it, too
                cluster.remove()


# ---- small helpers


def _search_path() -> str:
    """Return PATH with the folders of Debian's daemons, which ordinary users' PATH lacks."""
    return f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/usr/bin:/sbin:/bin"


def _check_folder(folder: Path) -> None:
    if len(str(folder)) > LONGEST_FOLDER:
        raise ClusterError(
            f"{folder}: {len(str(folder))} characters are too long for Slurm's sockets; "
            f"choose a folder of at most {LONGEST_FOLDER} with --dir"
        )
    if folder.exists() and any(folder.iterdir()):
        raise ClusterError(f"{folder}: not empty, and no cluster of ours; choose another --dir")


def _free_ports() -> int:
    """Return the first of as many neighbouring free ports as the daemons need."""
    needed = 3 + len(NODES)
    for _ in range(100):
        first = random.choice(PORT_RANGE)
        if all(_is_free(port) for port in range(first, first + needed)):
            return first
    raise ClusterError(f"no {needed} neighbouring free ports between 20000 and 32000")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _make_devices(folder: Path) -> None:
    """Make one device per fake GPU: only character devices give jobs CUDA_VISIBLE_DEVICES.

    Where a container forbids making them, plain files still let Slurm count the GPUs.
    """
    for index in range(GPUS_PER_NODE):
        path = folder / f"gpu{index}"
        try:
            os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 3))  # what /dev/null is
        except PermissionError:
            path.touch()


def _write(path: Path, content: str | bytes, mode: int = 0o644) -> None:
    """Write a file whole, readable by nobody too early."""
    part = path.with_name(f".{path.name}.part")
    part.touch(mode=0o600)
    part.write_bytes(content.encode() if isinstance(content, str) else content)
    part.chmod(mode)
    part.replace(path)


def _end(processes: Iterable[psutil.Process], first: signal.Signals = signal.SIGTERM) -> None:
    """Signal processes and wait for their end; SIGKILL for what is left after ten seconds."""
    alive = list(processes)
    for number in (first, signal.SIGKILL):
        for process in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)
        deadline = time.monotonic() + 10
        while (alive := [p for p in alive if _lives(p)]) and time.monotonic() < deadline:
            time.sleep(0.02)


def _is_on(process: psutil.Process, node: str) -> bool:
    """Return whether a job's process belongs to a node: its step daemon or a child of that."""
    with contextlib.suppress(psutil.Error):
        if process.name() == "slurmstepd":
            return any(
                Path(opened.path).stem == f"slurmd-{node}" for opened in process.open_files()
            )
        return process.environ().get("SLURMD_NODENAME") == node
    return False


def _lives(process: psutil.Process) -> bool:
    """Return whether a process runs; a zombie, which a container may never reap, does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


# ---- by hand


def up(cluster: Cluster) -> None:
    """Start the cluster if it does not run, and print how to use it."""
    if cluster.is_up:
        print(f"the test Slurm in {cluster.folder} is already up")
    else:
        ensure_installed()
        if cluster.exists:  # one that was killed
            cluster.stop()
            cluster.remove()
        cluster.start()
        print(f"the test Slurm in {cluster.folder} is up: {len(NODES)} nodes")
    print(f"to use it:  export SLURM_CONF={cluster.conf}")


def down(cluster: Cluster) -> None:
    """Stop the cluster and delete its folder; no error when there is none."""
    if cluster.exists:
        cluster.stop()
        cluster.remove()
        print(f"the test Slurm in {cluster.folder} is down")
    else:
        print(f"no test Slurm in {cluster.folder}")


def status(cluster: Cluster) -> None:
    """Print nodes and jobs."""
    if not cluster.is_up:
        raise ClusterError(f"the test Slurm in {cluster.folder} is not up")
    print(cluster.run("sinfo"), cluster.run("squeue"), sep="\n", end="")


def env(cluster: Cluster) -> None:
    """Print the line that makes a shell use the cluster."""
    if not cluster.is_up:
        raise ClusterError(f"the test Slurm in {cluster.folder} is not up")
    print(f"export SLURM_CONF={cluster.conf}")


def main() -> int:
    """Run one of the four commands; return 1 when it failed, with the reason on stderr."""
    words = {"up": up, "down": down, "status": status, "env": env}
    parser = argparse.ArgumentParser(description="A real Slurm of eight nodes on this host.")
    parser.add_argument("word", choices=words)
    default = HERE.parents[1] / ".slurm"
    parser.add_argument("--dir", type=Path, default=default, help="its folder (default: .slurm)")
    options = parser.parse_args()
    try:
        words[options.word](Cluster(options.dir))
    except ClusterError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
