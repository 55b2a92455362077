"""How fast each op is beside every other way to do the same, measured honestly."""
