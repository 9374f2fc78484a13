"""HTML page about a prepared dataset: maps of its pairs, the best, the most suspicious, their shifts."""
