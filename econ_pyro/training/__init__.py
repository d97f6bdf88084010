"""Runs: steps, schedules, checkpoints, several processes."""
