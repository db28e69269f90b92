"""What a trace tells: who waited for whom, what set the pace, what was hidden, what changed.

Pure functions of a Trace; it may be simulated, measured, replayed or come from another tool.
"""
