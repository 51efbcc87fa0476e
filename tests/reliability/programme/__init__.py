"""The programme of faults: each part is a module, whose trials tests and the long command share.

kills       kill -9 at random moments, chained until the run is done
saves       kill -9 at every system call of a save
...
"""
