"""A residual layer of WaveNet: dilated convolution, gate, residual, in one op."""
