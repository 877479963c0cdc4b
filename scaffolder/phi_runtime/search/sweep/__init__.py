"""Hyper-parameter search: trials are runs of the same engine, up to the pass that trains, with values put into the config.

`search` asks Optuna for values and keeps what came of them; a trial runs in this process, or in worker processes beside it.
"""
