"""Sentinel: an OpenAI-compatible proxy that holds every caller's limits in one atomic step before the call."""

__version__ = "0.1.0"
