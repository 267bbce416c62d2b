"""Measurements. Nothing here asserts a time: each prints what it saw, beside the machine it saw it on."""
