"""The gate of PixelCNN and WaveNet: one half of the channels lets the other through."""
