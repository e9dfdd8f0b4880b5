"""The environment that a job inherits, and that of Slurm's commands."""

from __future__ import annotations

from pathlib import Path

from jobs.slurm.job_environment import command_environment, job_environment, without_code


def test_settings_of_a_person_or_an_outer_job_do_not_change_the_questions() -> None:
    environ = {
        "SQUEUE_PARTITION": "gpu",
        "SACCT_FORMAT": "x",
        "SLURM_TIME_FORMAT": "relative",
        "SCONTROL_ALL": "1",
        "SINFO_FORMAT": "x",
        "SLURM_CONF": "/c",
        "PATH": "/bin",
    }

    assert command_environment(environ) == {"SLURM_CONF": "/c", "PATH": "/bin"}


def test_an_outer_jobs_variables_stay_behind_even_when_the_profile_names_them() -> None:
    outer = {
        "SLURM_CPU_BIND": "none",
        "SBATCH_PARTITION": "low",
        "SUBMITIT_EXECUTOR": "slurm",
        "PMI_RANK": "3",
        "OMPI_COMM_WORLD_RANK": "3",
        "MASTER_ADDR": "node7",
        "RANK": "3",
        "MEDITRON_ATTEMPT": "3",
    }
    kept = {"SLURM_CONF": "/c", "PATH": "/bin", "HF_HOME": "/hf", "LMOD_CMD": "/lmod"}

    assert job_environment([*outer, "HF_HOME"], {**outer, **kept, "OTHER": "x"}) == kept


def test_the_runs_own_code_does_not_pile_up_on_the_path() -> None:
    code = Path("/runs/r/code")

    assert without_code({"PYTHONPATH": f"{code}:{code}:/site"}, code) == {"PYTHONPATH": "/site"}
    assert without_code({"PYTHONPATH": str(code), "A": "1"}, code) == {"A": "1"}
    assert without_code({}, code) == {}
