"""The development stack for `sentinel dev` and the tests: a real Redis, both simulators and Sentinel itself.

Nothing here runs in production. What cannot start raises `StackError` with one sentence that says what to do.
"""
