"""The programme of faults: each part is a module, whose trials tests and one long command share.

forks       `ft` as a real process that is there at once
bench       what trials have in common: runs to compare with, what must hold, the outcome
kills       kill -9 at random moments, and while a checkpoint is written
saves       kill -9 at every system call of a save; the order of flushes
resumes     going on from every step
disks       full disks, files that may not grow
damage      bytes that changed
signals     SIGTERM and SIGINT at random moments
lost        one of two processes killed, stopped or raising
doubles     two runs in one directory
yamls       wrong configs
memory      5,000 steps
mutants     faults planted in the source
parts       all of it, and the ledger of what was done: `python benchmarks/reliability.py`
"""
