"""Load on a whole Sentinel: scenarios for people (`locustfile.py`) and a runner that writes docs/performance.md (`run.py`)."""
