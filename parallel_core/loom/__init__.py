"""The tensor loom: one product of matrices, or two with a nonlinearity between, cut over tp ranks.

    layout.py    what a matrix looks like on the ranks, and what products and messages make of it
    weave.py     which message a layout needs where: the program, forward and back
    proof.py     every part of a sum is in it once, before anything that is not linear touches it
    matrix.py    matrices as lists of rows;  by_hand.py  the program on them, in one process
    words.py     steps and edges in layout notation
    request.py   one product as a reader asks for it
    figures.py   bytes, messages and FLOPs, from the program alone
    report.py    a live run as its owner follows it (the ranks' side is loom_live.py)

Nothing here loads torch.
"""
