"""Traces that come from elsewhere: our own files, torch.profiler, NCCL's flight recorder.

`load.load` recognises a file by its content. Everything is checked and bounded; nothing is ever
unpickled; whatever cannot be read is refused with one sentence (`TraceError`).
"""
