"""What a CUDA graph may not capture, found on a CPU: steps run on tensors that hold no data."""

from __future__ import annotations

import io

import torch
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten


def without_data(thing):
    """The same on the meta device, whatever it keeps its tensors in."""
    file = io.BytesIO()
    torch.save(thing, file)
    file.seek(0)
    return torch.load(file, map_location="meta", weights_only=False)


def watched(step, *inputs):
    """A step that is called, on the meta device; once warm, it must do what a graph may alone.

    That device stands for a GPU: it raises by itself where the host would wait for a value.
    """
    with Run() as warm_up:
        step(*inputs)
    with Run(warm_up):
        step(*inputs)
    return step


class Run(TorchDispatchMode):
    """A run of a step, and the memory that its operators see.

    Attributes:
        warm_up: the run before this one, or None: this is it, and may do anything.
    """

    def __init__(self, warm_up=None):
        super().__init__()
        self.warm_up = warm_up
        # Tensors are kept, so that no other memory takes the name of theirs.
        self.seen = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        given = [*_tensors(args), *_tensors(kwargs.values())]
        if self.warm_up is not None:
            self._check(func, given, args)
        result = func(*args, **kwargs)
        made = _tensors([result])
        if self.warm_up is not None and func.overloadpacket in (aten._to_copy, aten.copy_):
            devices = {each.device for each in given + made}
            assert len(devices) == 1, f"{func} copies between the host and a GPU"
        self.seen.update((_memory_of(each), each) for each in given + made)
        return result

    def _check(self, func, given, args):
        on_gpu = [each for each in given if each.is_meta]
        # A single number goes along with a kernel's arguments; more would have to be copied.
        on_host = [each for each in given if not each.is_meta and each.dim() > 0]
        assert not on_gpu or not on_host, f"{func} mixes tensors of the host and of a GPU"
        for each in on_gpu:
            # No operator made it: it is of a list or of numbers.
            is_known = _memory_of(each) in self.seen or _memory_of(each) in self.warm_up.seen
            assert is_known, f"{func} takes {tuple(each.shape)} copied from the host"
        if func.overloadpacket in (aten.index, aten.index_put_):
            places = {each.dtype for each in _tensors(args[1])}
            assert not places & {torch.bool, torch.uint8}, f"{func} waits for how many a mask has"


def _tensors(things):
    found = []
    for each in things:
        if isinstance(each, torch.Tensor):
            found.append(each)
        elif isinstance(each, list | tuple):
            found += _tensors(each)
    return found


def _memory_of(x):
    return x.untyped_storage()._cdata
