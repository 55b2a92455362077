"""A convolution whose kernel sees only what comes before in raster order, and its gate."""
