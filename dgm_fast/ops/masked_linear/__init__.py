"""`y = x (weight * mask)^T + bias` that never multiplies what the mask removes."""
