"""Restarting runs: what is left of an attempt, which hosts are there, and the command of the next one."""
