"""Damaged files of every kind that is read, and commands killed at any moment.

``python -m tests.endurance.run`` tries thousands of both and keeps the counts; ``test_endurance`` tries a
few in every run of the tests.
"""
