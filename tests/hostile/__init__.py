"""Attacks: raw requests against a real Granian, each beside a normal caller who must not notice."""
