"""Run the stages of a project on other machines: Azure ML and Slurm, and files for other clusters.

One job is one value, `job.RemoteJob`, which names no service. `plan.plan_job` creates it from a config; an `engine.Engine` submits
it, and answers for its status, logs and outputs. Only the modules of an engine import its client, inside functions.
"""
