"""The walls a large model meets, as formulas: its size, its state, its work (no torch).

models.py    the models the course talks about, parameters counted from their shapes
memory.py    bytes: training state, activations, KV cache, devices needed
compute.py   FLOPs, time and cost of training; attention in prefill and decode
"""
