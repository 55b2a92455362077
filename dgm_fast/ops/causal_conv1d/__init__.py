"""A convolution in time that never looks ahead, whole or streamed."""
