"""Turn the shards of a corpus into indexed datasets."""
