"""Which categories samplers leave out."""

from __future__ import annotations

# The largest alone, more than one, all; next to none, some, nearly all; both.
FILTERS = [
    *({"top_k": k} for k in (1, 3, 1000)),
    *({"top_p": p} for p in (1e-6, 0.5, 0.99)),
    {"top_k": 5, "top_p": 0.7},
]
