"""Experts: a layer whose MLP is one of many, chosen for each token by a router.

The reading list: routing.py (who goes where), grouped.py (many products in one); then what needs no
torch: placement.py, replication.py and grouping.py (who holds which expert), capacity.py (who finds
room), traffic.py and ted.py (what travels), buffering.py and speculation.py (what may wait, what
may go early), quoted.py (what others measured).
"""
