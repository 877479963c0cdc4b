"""Errors, events, locks, signals, artifacts and project folders. Every other package builds on this one."""
