"""One HTML page about a prepared dataset: where its pairs lie, the best, the most suspicious, the shifts."""

from terramorph.prepare.page.inspect import inspect, summary

__all__ = ["inspect", "summary"]
