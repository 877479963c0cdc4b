"""One file per pass type, named after the type. Each file holds a pass class: its settings and what it does.

Files import ML libraries inside methods only, so that a config can be validated where none is installed.
"""
