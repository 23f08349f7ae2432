"""Inputs with faults, through the functions that users call: each ends well, or in one line that says what to do.

Read `kinds.py` first: what a kind of input is. `python -m tests.hostile --help` runs many, `test_hostile.py` a few.
"""
