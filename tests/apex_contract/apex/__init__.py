"""Stands in for Apex: what its O2 promises, and its traps, on any device.

Written from what Apex was seen to do, not from its sources. It follows
NVIDIA's up to 25.05 and Ascend's: names that other code touches, the order of
operations down to the last bit, and what goes wrong there. ``amp`` and the
fused optimizers of Ascend are all there is.

Attributes:
    KINDS (tuple[str]): Kinds of device that it serves; it finds out late, as
        Apex does, when the masters are made.
"""

KINDS = ('cpu', 'cuda', 'npu')
