"""Deadlocks that really happen, on CPU: messages that wait for each other, as NCCL's do.

programs.py    the classic careless orders as programs, and each of them cured
standing.py    the board in shared memory that says where every rank stands
rendezvous.py  a Comm whose calls return only when the other ends are there
ranks.py       a rank that runs such a program, strictly or with gloo's buffered sends
layouts.py     any layout with its messages in line with its tasks: one lane a rank
training.py    a rank of a real training in that form, strictly
finding.py     the owner's side: start the ranks, hear where they stand, say what `check` says
request.py     a strict training that a page asks for; report.py what it found, event by event
"""
