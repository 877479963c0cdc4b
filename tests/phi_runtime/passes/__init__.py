"""Passes, as a third party adds one."""
