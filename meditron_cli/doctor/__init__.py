"""What a site's Slurm is like, and what that means for runs: ``meditron doctor``.

``asking`` asks, ``facts`` reads the answers, ``meaning`` judges them, ``probe`` looks from compute
nodes, and ``cache`` keeps what plans are made with.
"""
