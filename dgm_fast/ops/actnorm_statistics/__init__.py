"""Mean and sum of squared deviations of every channel, in one stable pass."""
