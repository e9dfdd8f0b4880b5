"""Trials on a cluster's nodes, each of which confirms or refutes a claim about training."""
