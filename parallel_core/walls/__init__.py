"""The walls a large model meets, as formulas: its size, its state, its work (no torch).

models.py    the models the course talks about, parameters counted from their shapes
memory.py    bytes: training state, activations, KV cache, devices needed
sharding.py  what ZeRO leaves on a rank, the largest model that fits, and what is not counted
request.py   a reader's question about memory, and its answer
compute.py   FLOPs, time and cost of training; attention in prefill and decode
"""
