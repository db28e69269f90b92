"""The command line on a machine whose clock is ahead: `python skewed_node.py NANOSECONDS run ...`.

The clock is replaced before anything of ours is imported, so all of it reads the wrong one.
"""

from __future__ import annotations

import sys
import time

_right, _ahead = time.perf_counter_ns, int(sys.argv.pop(1))
time.perf_counter_ns = lambda: _right() + _ahead

from parallel_core.cli import main  # noqa: E402  (after the clock)

main()
