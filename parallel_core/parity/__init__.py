"""Parity as a product: every layout held against one process, tensor by tensor.

In reading order: axes.py (what a plan can be split by), matrix.py (which layouts there are),
sweep.py (run and judge them), first.py (where one departs). What loads torch stands apart: ranks.py
is what every rank does, probe.py what it notes, truth.py the one process.
"""
