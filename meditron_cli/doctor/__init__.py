"""``meditron doctor``: a site's Slurm settings and compute nodes, and their consequences for runs.

``queries`` queries Slurm, ``facts`` parses the output, ``rules*`` turn facts into findings,
``probe`` runs a job that reports from compute nodes, and ``plan_facts`` selects the facts that
plans use.
"""
