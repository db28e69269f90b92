"""The machines: what a device computes, holds and moves, and the roof that puts over a kernel."""
