"""HTML page about a prepared dataset: maps of its pairs, the best, the most suspicious, their shifts."""

from terramorph.prepare.page.inspect import inspect, summary

__all__ = ["inspect", "summary"]
