"""Counter-based random numbers: the same on every implementation, in one process or in many."""
