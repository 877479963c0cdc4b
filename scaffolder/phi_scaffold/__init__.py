"""The generator and the command line. Nothing in this package imports an ML library."""

__version__ = "0.2.0.dev0"
