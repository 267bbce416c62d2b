"""Measurements of Sentinel's parts (bench/README.md). Nothing here asserts a time."""
