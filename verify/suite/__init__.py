"""Whole folders of instances: their csv files read, decided in worker processes, results kept row by row.

`instances` reads, `worker` is what runs in a process of its own, `runner` keeps the processes and survives their ends,
`results` is the file that a suite goes on from. Nothing heavy is imported outside a worker.
"""
