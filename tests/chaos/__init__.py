"""Random faults, by seed, over a whole stack: afterwards what was booked is what was served.

`python -m tests.chaos --seed N --seconds S` runs one schedule for as long as you like; `test_chaos.py` a short one in CI.
"""
