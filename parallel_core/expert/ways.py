"""The mesh axes along which rows of tokens travel."""

WHOLE, INSIDE, ACROSS = "ep", "ep_in", "ep_out"
"""All ranks that share the experts; those of one node; the same place in every node."""
