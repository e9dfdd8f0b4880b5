"""The sample: a small medical corpus and a benchmark, written from tables of medical facts."""
