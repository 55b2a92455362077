"""Whole-number arithmetic of launchers: Triton's own costs microseconds a call on the host."""

from __future__ import annotations


def ceil_div(a: int, b: int) -> int:
    """Return a / b, rounded up."""
    return -(-a // b)


def next_power_of_2(n: int) -> int:
    """Return the least power of 2 that is not below n, and 1 where there is no n."""
    return 1 << max(0, n - 1).bit_length()
