"""Monotonic rational-quadratic splines and the log-determinant of their Jacobian."""
