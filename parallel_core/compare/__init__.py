"""The measurement table: the same model and data under several layouts, side by side.

    layouts.py      what is compared: layouts in words, on one model and batch
    rounds.py       the runs, taking turns over rounds
    figures.py      what a run is measured by: speed, use, traffic, memory, loss
    expected.py     the textbook's arrows, each seen or not, and why not
    recap.py        when methods synchronise, what they divide and send, what batch they ask for
    table.py        all of it as one JSON object
    curves.py       losses over many steps, by layout and element type
    rate.py         what a device of this machine computes at most, for MFU
    rate_ranks.py, quiet_ranks.py    what runs on the ranks (torch)

Every figure is read off a run's report, its trace, or the replay of it on own devices; the replays
of all runs share one link, or they would not compare.
"""
