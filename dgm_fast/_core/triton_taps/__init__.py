"""Sums over a kernel's live taps as Triton kernels, for convolutions of images and of signals."""
