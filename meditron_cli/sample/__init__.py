"""The sample: a small medical corpus and a benchmark, generated from tables of medical facts."""
