"""Serving: the champion of a model over HTTP, and a page to try it."""
