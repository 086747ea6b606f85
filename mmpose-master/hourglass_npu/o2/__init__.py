"""Mixed precision O2: settings, casting, overflow, and two engines.

Start at :func:`hourglass_npu.o2.choice.initialize`; docs/O2.md explains it.
"""
