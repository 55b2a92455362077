"""Samplers draw in pieces: Ctrl-C comes in between, and progress is of what is done."""

from __future__ import annotations

import asyncio
import os
import signal
import threading

import pytest
import torch

from dgm_fast.families import MADE, RNN, MADEConfig, RNNConfig
from dgm_fast.sampling import (
    MaskedSampler,
    PixelSampler,
    SamplingInterrupted,
    masked_mlp,
    pieces,
    sequence,
)
from dgm_fast.sampling.interrupted import undisturbed
from dgm_fast.sampling.pieces import Pace, draw_in_pieces
from dgm_fast.sampling.pixelcnn import op as pixel_op
from dgm_fast.sampling.wavenet import op as wavenet_op
from tests.sampling.masked_cases import STEPS, Shape, make_network, make_noise
from tests.sampling.pixel_cases import CONFIGS as IMAGES
from tests.sampling.pixel_cases import model_of, same, start_of
from tests.sampling.wavenet_cases import CONFIGS, LARGE, T, conditions, make_sampler, of

GPU = torch.device("cuda")


@pytest.fixture
def ctrl_c():
    """Python's own answer to Ctrl-C, which pytest's workers may go without."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def after_calls(ctrl_c, monkeypatch, impl):
    """Send SIGINT when a sampler has drawn some pieces, before it knows of the last of them."""
    # Every step a piece.
    monkeypatch.setattr(pieces, "_SECONDS", 0.0)

    def interrupt(sampler, op, calls):
        draw, left = sampler._loop.go_on if impl == "reference" else op.draw["cpp"], [calls]

        def then_interrupt(*arguments):
            drawn = draw(*arguments)
            left[0] -= 1
            if left[0] == 0:
                signal.raise_signal(signal.SIGINT)
            return drawn

        if impl == "reference":
            sampler._loop.go_on = then_interrupt
        else:
            monkeypatch.setitem(op.draw, "cpp", then_interrupt)

    return interrupt


def test_an_interrupted_signal_goes_on_bit_for_bit(after_calls, impl):
    config = CONFIGS["both"]
    sampler, model = make_sampler(config, impl)
    label, local, _ = conditions(config, model, 3)
    noise, found = sampler.draw_noise(3, T), torch.zeros(3, T, model.output.parameters)
    expected = torch.zeros_like(found)
    whole, at_the_end = sampler.draw(
        sampler.start(3, label), noise=noise, features=local, parameters_out=expected
    )

    after_calls(sampler, wavenet_op, 3)
    state = sampler.start(3, label)
    with pytest.raises(SamplingInterrupted) as caught:
        sampler.draw(state, noise=noise, features=local, parameters_out=found)

    some, done = caught.value.samples, state.time
    assert 0 < done < T
    assert caught.value.state is state
    assert torch.equal(some, whole[:, :done])
    times = slice(done, T)
    options = {"features": of(local, times), "parameters_out": found[:, times]}
    rest, state = sampler.draw(state, noise=noise[:, times], **options)
    assert torch.equal(rest, whole[:, times])
    assert torch.equal(found, expected)
    assert torch.equal(state.rings, at_the_end.rings)
    assert torch.equal(state.recent, at_the_end.recent)


def test_a_beginning_whose_feeding_is_interrupted_goes_on(after_calls, impl):
    sampler, _ = make_sampler(CONFIGS["categorical"], impl)
    noise = sampler.draw_noise(2, T)
    whole, _ = sampler.draw(sampler.start(2), noise=noise)

    after_calls(sampler, wavenet_op, 2)
    state = sampler.start(2)
    with pytest.raises(KeyboardInterrupt):
        sampler.feed(state, whole[:, :20])
    assert 0 < state.time < 20
    state = sampler.feed(state, whole[:, state.time : 20])
    assert torch.equal(sampler.draw(state, noise=noise[:, 20:])[0], whole[:, 20:])


def test_interrupted_images_go_on_bit_for_bit(after_calls, impl):
    config = IMAGES["gated"]
    sampler = PixelSampler(model_of(config)._describe(), impl=impl)
    expected, found = (torch.zeros(3, sampler.features, 1).double() for _ in range(2))
    whole = sampler.draw(start_of(sampler, config, 3), parameters_out=expected)

    after_calls(sampler, pixel_op, 2)
    state = start_of(sampler, config, 3)
    with pytest.raises(KeyboardInterrupt):
        sampler.draw(state, parameters_out=found)

    done, row = int(state.done), config.image_shape[2]
    assert 0 < done < sampler.size[0]
    assert torch.equal(state.images[:, :, :done], whole.images[:, :, :done])
    # An operator's parameters reach a tensor of another dtype, though it was interrupted.
    assert expected.all()
    assert torch.equal(found[:, : done * row], expected[:, : done * row])
    assert same(sampler.draw(state), whole)


@pytest.mark.parametrize("step", ["bernoulli", "standardizing"])
def test_interrupted_features_go_on_bit_for_bit(ctrl_c, monkeypatch, impl, step):
    step = STEPS[step]
    network, noise = make_network(Shape(), step.parameters)[0], make_noise(step, 3, 37)
    sampler = MaskedSampler(network, step, impl=impl)
    whole, state = sampler.start(3), sampler.start(3)
    sampler.draw(whole, noise)

    def interrupting(call):
        def then_interrupt(*arguments):
            result = call(*arguments)
            signal.raise_signal(signal.SIGINT)
            return result

        return then_interrupt

    sweep, name = sampler._sweep, "_iterate" if impl == "reference" else "_go_on"
    with monkeypatch.context() as patch:
        patch.setattr(sweep, name, interrupting(getattr(sweep, name)))
        with pytest.raises(KeyboardInterrupt):
            sampler.draw(state, noise, progress=lambda *_: None)
    assert state.step < 37
    sampler.draw(state, noise)
    assert torch.equal(state.x, whole.x)
    assert torch.equal(state.log_det, whole.log_det)


def test_ctrl_c_ends_a_long_draw_before_its_end(ctrl_c):
    sampler, model = make_sampler(LARGE)
    label, local, _ = conditions(LARGE, model, 1, 10_000)
    noise, state = sampler.draw_noise(1, 10_000), sampler.start(1, label)
    timer = threading.Timer(0.02, os.kill, (os.getpid(), signal.SIGINT))

    def draw():
        timer.start()
        sampler.draw(state, noise=noise, features=local)
        timer.join()

    with pytest.raises(KeyboardInterrupt) as caught:
        draw()
    # Of the draw, and not of waiting for the timer.
    assert isinstance(caught.value, SamplingInterrupted)
    assert caught.value.samples.shape == (1, state.time)
    assert state.time < 10_000


def test_what_is_undisturbed_ends_before_ctrl_c_comes(ctrl_c):
    done = []

    def interrupted():
        with undisturbed():
            signal.raise_signal(signal.SIGINT)
            done.append(1)

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert done == [1]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler

    # An event loop, which hears of it when it comes, is not told again.
    async def count():
        came, loop = [], asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGINT, came.append, 1)
        with undisturbed():
            os.kill(os.getpid(), signal.SIGINT)
        await asyncio.sleep(0.05)
        loop.remove_signal_handler(signal.SIGINT)
        return came

    assert asyncio.run(count()) == [1]

    # Where Python does not handle it, it comes to no harm.
    with undisturbed():
        done.append(2)
    thread = threading.Thread(target=lambda: undisturbed().__enter__())
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_sampler_of_signals_tells_its_progress(impl):
    sampler, told = make_sampler(CONFIGS["categorical"], impl)[0], []
    noise = sampler.draw_noise(2, 70)
    whole, _ = sampler.draw(sampler.start(2), noise=noise)
    first, state = sampler.draw(sampler.start(2), noise=noise[:, :10])
    # Of this draw alone.
    second, state = sampler.draw(
        state, noise=noise[:, 10:], progress=lambda *done: told.append((*done, state.time))
    )
    assert told == sorted(set(told))
    assert all(of == 60 and time == 10 + done for done, of, time in told)
    assert len(told) >= 20
    assert told[-1][0] == 60
    assert torch.equal(torch.cat([first, second], dim=1), whole)


def test_a_sampler_of_images_tells_its_progress(impl):
    config, told = IMAGES["pixelcnn of large kernels"], []
    sampler = PixelSampler(model_of(config)._describe(), impl=impl)
    whole = sampler.draw(start_of(sampler, config, 2))
    state = sampler.draw(start_of(sampler, config, 2), 2)
    sampler.draw(state, 3, progress=lambda *done: told.append((*done, int(state.done))))
    assert told == [(3, 7, 3), (4, 7, 4), (5, 7, 5)]
    assert same(sampler.draw(state), whole)


class Gpu:
    """A device that nobody has: what is drawn on it takes time, and is waited for."""

    def __init__(self, monkeypatch, seconds):
        self.seconds, self.now, self.events = seconds, 0.0, []
        monkeypatch.setattr(pieces.time, "perf_counter", lambda: self.now)
        monkeypatch.setattr(pieces.torch.cuda, "current_stream", lambda device: self)

    def synchronize(self):
        self.events.append("wait")

    def draw(self, begin, end):
        self.now += (end - begin) * self.seconds
        self.events.append((begin, end))

    def tell(self, done, of):
        self.events.append(f"{done} of {of}")


def test_a_short_draw_is_one_launch_that_nobody_waits_for(monkeypatch):
    gpu = Gpu(monkeypatch, 1e-6)
    draw_in_pieces(gpu.draw, 3, 50, Pace(1e-6), GPU)
    assert gpu.events == [(3, 50)]
    gpu.events.clear()
    draw_in_pieces(gpu.draw, 0, 2, Pace(1e-6), GPU, gpu.tell, 9)
    assert gpu.events == [(0, 1), "wait", "1 of 9", (1, 2), "wait", "2 of 9"]


@pytest.mark.parametrize("guess", [1e-6, 1e-3, 1.0])
def test_pieces_take_a_twentieth_of_a_second_whatever_was_guessed(monkeypatch, guess):
    gpu = Gpu(monkeypatch, 1e-4)
    draw_in_pieces(gpu.draw, 0, 100_000, Pace(guess), GPU)
    drawn = [each for each in gpu.events if each != "wait"]
    assert [begin for begin, _ in drawn[1:]] == [end for _, end in drawn[:-1]]
    assert drawn[-1][1] == 100_000
    lengths = {end - begin for begin, end in drawn[6:-1]}
    assert lengths <= set(range(499, 502))


@pytest.mark.parametrize("module", [sequence, masked_mlp.sampler], ids=["rnn", "made"])
def test_progress_is_told_when_what_was_sent_is_done(module, monkeypatch):
    events = []
    monkeypatch.setattr(module, "wait_for", lambda device: events.append("wait"))

    def progress(done, of):
        events.append(done)

    if module is sequence:
        sampler = RNN(RNNConfig(vocabulary=5, width=8)).eval().sampler()
        sampler.draw(sampler.start(2), 2, progress=progress)
    else:
        sampler = MADE(MADEConfig(2, (8,))).sampler(impl="reference")
        sampler.draw(sampler.start(3), torch.rand(3, 2, 1), progress=progress)
    assert events[-2:] == ["wait", 2]
    assert events[::2] == ["wait"] * (len(events) // 2)


@pytest.mark.parametrize("draws", ["signals", "images"])
def test_rows_of_a_large_batch_are_those_of_small_ones(draws, impl):
    # Of the reference, rounding may depend on the batch.
    dtype = torch.float64 if impl == "reference" else torch.float32
    if draws == "signals":
        sampler, _ = make_sampler(CONFIGS["categorical"], impl, dtype)
        noise = sampler.draw_noise(4096, 8)
    else:
        model = model_of(IMAGES["pixelcnn of single pixels"], dtype=dtype)
        sampler = model.sampler(impl=impl)
        noise = sampler.draw_noise(4096)

    def drawn(noise):
        if draws == "signals":
            return sampler.draw(sampler.start(len(noise)), noise=noise)[0]
        return sampler.draw(sampler.start(len(noise), noise=noise)).images

    whole = drawn(noise)
    for rows in (slice(0, 3), slice(2040, 2057), slice(4095, None)):
        assert torch.equal(drawn(noise[rows]), whole[rows])
    assert len(whole.flatten(1).unique(dim=0)) > 1000
