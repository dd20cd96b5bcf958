"""Trainings on a Slurm cluster: checked and submitted, started on good nodes, requeued, and asked how they stand.

slurm/lib.sh calls these modules from a batch script.
"""
