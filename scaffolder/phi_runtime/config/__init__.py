"""The config as text and as types. Imports no ML library."""
