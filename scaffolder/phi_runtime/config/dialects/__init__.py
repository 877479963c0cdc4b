"""Translate every generation of Olive's config format into the canonical one."""
