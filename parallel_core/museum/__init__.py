"""The bug museum: famous silent bugs, each a switch that nothing but a museum run can turn on.

exhibit.py    what an exhibit is
exhibits.py   the catalogue: what is wrong, the layout it needs, where it sleeps, the public source
request.py    a visit as a reader asks for it
report.py     what a visit found: loss, gradient norm and probe, each with and without the bug
words.py      the same in sentences
planted.py    the one way to switch a bug on: a class of kernels made for one run
unsummed.py   switches: sums that are left out, or come at the wrong time
scaled.py     switches: gradients and norms that are too large
placed.py     switches: positions, weights and microbatches that are not where they belong
ranks.py      a rank of a visit: the same training right, with the bug, and from another seed
"""
