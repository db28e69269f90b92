"""What a trace tells: who waited for whom and why a rank stood idle, what set the pace.

And what was hidden, what got stuck, what changed between two runs.

Pure functions of a Trace; it may be simulated, measured, replayed or come from another tool.
"""
