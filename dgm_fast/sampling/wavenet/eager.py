"""The cached loop in plain PyTorch: the reference of the C++ sampler, and its stand-in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from dgm_fast.distributions import WaveformOutput
from dgm_fast.sampling.filters import Filters
from dgm_fast.sampling.padding import padded
from dgm_fast.sampling.wavenet.network import WaveNetNetwork
from dgm_fast.sampling.wavenet.state import WaveNetState

__all__ = ["EagerLoop"]


class EagerLoop:
    """Draws samples one after another; each costs one product with every weight.

    A layer's last inputs are kept as a list of tensors, so that to look one up and to put one in
    its place cost nothing. Each layer has one gate channel more, which is open, z = 1, and brings
    the residual's bias along in one call with its product.
    """

    def __init__(self, network: WaveNetNetwork, output: WaveformOutput) -> None:
        self.network, self.output = network, output
        self.gate_channels, self.layers = network.gate_channels, len(network.layers)
        # All taps stand one under another, oldest first, for one product.
        self.convs = [
            _with_open_gate(layer.weight.permute(2, 1, 0).flatten(0, 1), 0.0)
            for layer in network.layers
        ]
        self.residuals = [
            torch.cat([layer.residual_weight.flatten(1).T, layer.residual_bias[None]])
            for layer in network.layers[:-1]
        ]
        G, L = self.gate_channels, self.layers
        skip = F.pad(network.skip_weight.flatten(1).unflatten(1, (L, G)), (0, 1)).flatten(1)
        self.head = [
            (weight.flatten(1).T.contiguous(), bias)
            for weight, bias in (
                (skip, network.skip_bias),
                (network.head_weight, network.head_bias),
                (network.last_weight, network.last_bias),
            )
        ]
        # Of levels that are none, the last row of each table: nothing.
        tables = F.pad(network.first_weight.permute(2, 1, 0), (0, 0, 0, 1))
        self.tables = list(tables.unbind(0))
        self.features = None
        if network.features:
            maps = [layer.features.flatten(1) for layer in network.layers]
            self.features = torch.cat(maps).T.contiguous()

    def go_on(
        self,
        state: WaveNetState,
        given: Tensor | None,
        noise: Tensor | None,
        features: Tensor | None,
        filters: Filters,
        parameters_out: Tensor | None,
    ) -> tuple[Tensor, WaveNetState]:
        """Return the levels (B, n) drawn, and the state after them; `state` stays as it is."""
        rings = [_one_by_one(ring) for ring in self._rings(state)]
        noises = [] if noise is None else _one_by_one(noise)
        steps = (noise if given is None else given).shape[1]
        recent, drawn = self._encoded(state.recent), []
        conditions = self._conditions(state.condition)

        for t in range(steps):
            pasts = [self._past(ring, state.time + t) for ring in rings]
            if features is not None:
                local = torch.addmm(state.condition, features[..., t], self.features)
                conditions = self._conditions(local)
            below = recent, pasts, conditions
            if given is None:
                inputs, parameters, level = self.step(*below, noises[t], filters)
                drawn.append(level)
                if parameters_out is not None:
                    parameters_out[:, t] = parameters
            else:
                inputs, level = self.go_up(*below)[0], given[:, t]

            for ring, x in zip(rings, inputs, strict=True):
                ring[(state.time + t) % len(ring)] = x
            recent = [*recent[1:], self._encode(level)]

        after = replace(state.clone(), time=state.time + steps)
        for ring, kept in zip(self._rings(after), rings, strict=True):
            ring.copy_(torch.stack(kept, dim=1))
        levels = torch.stack(drawn, dim=1) if drawn else state.recent[:, :0]
        seen = levels if given is None else given
        after.recent.copy_(torch.cat([state.recent, seen], dim=1)[:, steps:])
        return levels, after

    def step(
        self,
        recent: Sequence[Tensor],
        pasts: Sequence[Sequence[Tensor]],
        conditions: Sequence[Tensor],
        noise: Tensor,
        filters: Filters,
    ) -> tuple[list[Tensor], Tensor, Tensor]:
        """Return each layer's input, the parameters (B, P) and the levels (B,) of one time."""
        inputs, gates = self.go_up(recent, pasts, conditions)
        (skip, skip_bias), (head, head_bias), (last, last_bias) = self.head
        skips = torch.addmm(skip_bias, torch.cat(gates, dim=1), skip).relu_()
        parameters = torch.addmm(last_bias, torch.addmm(head_bias, skips, head).relu_(), last)
        return inputs, parameters, filters.pick(self.output.pick, parameters, noise)

    def go_up(
        self,
        recent: Sequence[Tensor],
        pasts: Sequence[Sequence[Tensor]],
        conditions: Sequence[Tensor],
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Return the input (B, R) and z (B, G + 1) of each layer at one time.

        Arguments:
            recent: the last levels, oldest first: indices (B,), or values (B, 1).
            pasts: of each layer its inputs (B, R) under all taps but the last.
            conditions: what each layer's gates are given, (B or 1, 2 G + 2).
        """
        x = self.network.first_bias
        for table, level in zip(self.tables, recent, strict=True):
            x = x + (F.embedding(level, table) if self.network.one_hot else level * table[0])

        gates, inputs, half = [], [], self.gate_channels + 1
        for place, (past, conv) in enumerate(zip(pasts, self.convs, strict=True)):
            inputs.append(x)
            h = torch.addmm(conditions[place], torch.cat([*past, x], dim=1), conv)
            h[:, :half].tanh_()
            gates.append(F.glu(h, dim=1))
            if place + 1 < self.layers:
                x = torch.addmm(x, gates[-1], self.residuals[place])
        return inputs, gates

    def _conditions(self, condition: Tensor) -> list[Tensor]:
        # Both tanh and the sigmoid of it round to 1.
        return [_with_open_gate(each, 100.0) for each in condition.chunk(self.layers, dim=1)]

    def _past(self, ring: Sequence[Tensor], time: int) -> list[Tensor]:
        """Return a layer's inputs under all taps but the last, oldest first."""
        dilation = len(ring) // (self.network.kernel - 1)
        return [ring[i % len(ring)] for i in range(time, time + len(ring), dilation)]

    def _rings(self, state: WaveNetState) -> list[Tensor]:
        """Return views (B, slots, R) of each layer's ring."""
        R = self.network.channels
        sizes = [slots * padded(R) for slots in self.network.slots]
        rings = state.rings.split(sizes, dim=1)
        return [ring.unflatten(1, (-1, padded(R)))[..., :R] for ring in rings]

    def _encoded(self, recent: Tensor) -> list[Tensor]:
        none = recent < 0
        if self.network.one_hot:
            # The last row of a table.
            rows = self.tables[0].shape[0] - 1
            return _one_by_one(recent.masked_fill(none, rows))
        values = self.output.quantizer.scaled(recent, self.network.first_bias.dtype)
        return _one_by_one(values.masked_fill(none, 0.0).unsqueeze(2))

    def _encode(self, level: Tensor) -> Tensor:
        if self.network.one_hot:
            return level
        return self.output.quantizer.scaled(level, self.network.first_bias.dtype).unsqueeze(1)


def _with_open_gate(x: Tensor, value: float) -> Tensor:
    """Add a column of `value` to both halves (*, G) of x (*, 2 G)."""
    return F.pad(x.unflatten(-1, (2, -1)), (0, 1), value=value).flatten(-2)


def _one_by_one(x: Tensor) -> list[Tensor]:
    """Return the slices of dim 1, laid out like those that will take their places."""
    return list(x.transpose(0, 1).clone(memory_format=torch.contiguous_format).unbind(0))
