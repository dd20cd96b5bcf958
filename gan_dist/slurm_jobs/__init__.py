"""Trainings on a Slurm cluster: check and submit them, start them on good nodes, requeue them, report how they stand.

slurm/lib.sh calls these modules from a batch script.
"""
