"""Runs: many problems, arms, one folder; and what the command line shows of them."""
