"""ShardLab's core: a program is data; it is checked, simulated, run and drawn."""

__version__ = "0.1.0"
