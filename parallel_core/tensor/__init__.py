"""Tensor parallelism: every rank holds a slice of each matrix.

The reading list: conjugate.py (f and g), linear.py, embedding.py and cross_entropy.py, block.py.
"""
