"""Experts: a layer whose MLP is one of many, chosen for each token by a router.

The reading list: routing.py (who goes where), grouped.py (many products in one), then placement.py,
capacity.py, traffic.py.
"""
