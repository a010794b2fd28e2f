"""PatchCore and PaDiM beside anomalib 2.7: quality, times and memory on one class.

Every run has a process of its own, in turns, and both read the same copies of the same
files. `ours` and `theirs` are these processes; `theirs` is nothing without the extra
`anomalib` and is imported nowhere.
"""
