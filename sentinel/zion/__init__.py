"""Zion, the governance service."""
