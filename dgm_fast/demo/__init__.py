"""What `make demo` shows: a model trained in a minute, and the speed of this machine."""
