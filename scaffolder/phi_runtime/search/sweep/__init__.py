"""Hyper-parameter search: each trial runs the pipeline up to the training pass, with the values of the trial in its config.

Optuna proposes the values and stores the results. A trial runs in this process or in a worker process.
"""
