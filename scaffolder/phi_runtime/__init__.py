"""Executes a phi-scaffold project: fetch, fine-tune, merge, export, evaluate, infer.

Usable as a library: it prints nothing and asks nothing. What happens is told through events
(`phi_runtime.core.events`); what goes wrong is a `phi_runtime.core.errors.PhiError`. ML libraries are imported
inside the functions that need them.
"""
