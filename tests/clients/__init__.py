"""Real, unmodified clients through Sentinel: only a base URL and a key are given to them."""
