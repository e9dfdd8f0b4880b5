"""Programs that run on compute nodes, and the contract between them and the login node.

A task reads one JSON file, ``stages/<stage>/spec/<task>.json`` (see ``jobs.contract.specs``),
inside a run directory (see ``jobs.contract.rundir``), and writes its outputs and, last,
``stages/<stage>/done/<task>.json``. Any task can be re-run by hand: ``python -m jobs STAGE
RUN_DIR INDEX``.

Nothing here imports ``meditron_cli``, click or yaml.
"""
