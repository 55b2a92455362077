"""Models of token sequences are densities: normalised, causal, and what their counts say."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import pytest
import torch

from dgm_fast.families import (
    FAMILIES,
    Histogram,
    HistogramConfig,
    Markov,
    MarkovConfig,
    RNNConfig,
    Transformer,
    TransformerConfig,
)
from dgm_fast.families.autoregressive import TokenModel
from tests.families.sequence_models import NEURAL, VARIANTS, V, labels, make_model, rnn, tokens
from tests.families.sequence_models import transformer as small

variants = pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS)
neural = pytest.mark.parametrize("config", NEURAL.values(), ids=NEURAL)


@variants
@torch.no_grad()
def test_the_probabilities_of_all_sequences_sum_to_one(config):
    model = make_model(config).double()
    for length in (1, 2, 5):
        states = torch.tensor(list(itertools.product(range(V), repeat=length)))
        for label in {None} if not model.classes else {0, 1}:
            context = None if label is None else torch.full((len(states),), label)
            log_p = model.log_prob(states, context)
            assert float(log_p.exp().sum()) == pytest.approx(1, abs=1e-9)
            assert float(log_p.max() - log_p.min()) > 0.1


@neural
def test_no_output_depends_on_its_own_or_a_later_token(config):
    model, T = make_model(config).double(), 6
    x, context = tokens(1, T), labels(config, 1)
    embedded = model.embedding(torch.cat([torch.full((1, 1), V), x[:, :-1]], 1)).detach()
    model.embedding.register_forward_hook(lambda *_: embedded.requires_grad_())

    if hasattr(model, "_of_last"):
        # A perceptron embeds each window by itself: changes of the tokens show the same.
        check_causality_by_changes(make_model(config).double(), x, context)
        return
    jacobian = torch.autograd.functional.jacobian(
        lambda e: logits_of(model, e, x, context), embedded
    )
    # The input at place s is token s - 1: output t may look at inputs up to t, tokens before t.
    size = jacobian[0].abs().amax((1, 2, 4))
    assert torch.equal(size != 0, torch.ones(T, T, dtype=torch.bool).tril())


def logits_of(model, embedded, x, context):
    model.embedding._forward_hooks.clear()
    model.embedding.register_forward_hook(lambda *_: embedded)
    return model(x, context)


@variants
@torch.no_grad()
def test_a_token_changes_what_comes_after_it_alone(config):
    check_causality_by_changes(make_model(config).double(), tokens(4, 7), labels(config, 4))


@torch.no_grad()
def check_causality_by_changes(model, x, context):
    before = model(x, context)
    for t in range(x.shape[1]):
        changed = x.clone()
        changed[:, t] = (x[:, t] + 1) % V
        after = model(changed, context)
        assert torch.equal(after[:, : t + 1], before[:, : t + 1])
        if t + 1 < x.shape[1]:
            assert bool((after[:, t + 1] != before[:, t + 1]).any())


@variants
def test_log_prob_is_the_sum_of_the_conditionals(config):
    model, x, context = make_model(config).double(), tokens(5, 8), labels(config, 5)
    log_p = model(x, context).log_softmax(-1).gather(2, x[..., None]).sum((1, 2))
    torch.testing.assert_close(model.log_prob(x, context), log_p)
    torch.testing.assert_close(model.loss(x, context), -log_p.mean())
    # Integers of any dtype, and no rows at all.
    assert torch.equal(model.log_prob(x.float(), context), model.log_prob(x, context))
    none = None if context is None else context[:0]
    assert model.log_prob(x[:0], none).shape == (0,)


@variants
def test_saved_and_loaded_it_is_the_same(config, tmp_path):
    model, x, context = make_model(config), tokens(3, 7), labels(config, 3)
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    assert again.config == config
    assert FAMILIES[model.family] is type(model)
    assert torch.equal(again.log_prob(x, context), model.log_prob(x, context))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@neural
def test_narrow_weights_have_likelihoods_of_float32(config, dtype):
    x, context = tokens(3, 7), labels(config, 3)
    expected = make_model(config).log_prob(x, context)
    log_p = make_model(config).to(dtype).log_prob(x, context)
    assert log_p.dtype is torch.float32
    torch.testing.assert_close(log_p, expected, rtol=0.05, atol=0.5)
    with torch.autocast("cpu", torch.bfloat16):
        assert make_model(config).log_prob(x, context).dtype is torch.float32


@neural
def test_gradients_reach_every_parameter_and_are_right(config):
    model = make_model(config).double()
    x, context = tokens(4, 6), labels(config, 4)
    names, parameters = zip(*model.named_parameters(), strict=True)
    gradients = torch.autograd.grad(model.loss(x, context), parameters)
    for name, gradient in zip(names, gradients, strict=True):
        assert bool(gradient.isfinite().all()), name
        assert bool((gradient != 0).any()), name

    direction = [torch.randn_like(parameter) for parameter in parameters]
    expected = sum(float((g * d).sum()) for g, d in zip(gradients, direction, strict=True))
    losses, h = [], 1e-5
    for sign in (1, -1):
        with torch.no_grad():
            for parameter, d in zip(parameters, direction, strict=True):
                parameter.add_(d, alpha=sign * h)
            losses.append(float(model.loss(x, context)))
            for parameter, d in zip(parameters, direction, strict=True):
                parameter.sub_(d, alpha=sign * h)
    assert (losses[0] - losses[1]) / (2 * h) == pytest.approx(expected, rel=1e-5)


TEXT = "to be, or not to be"


@pytest.mark.parametrize(
    "config",
    [
        TransformerConfig(vocabulary=20, length=len(TEXT), layers=2, heads=2, width=32),
        RNNConfig(vocabulary=20, width=48),
        RNNConfig(vocabulary=20, width=48, cell="lstm", tied=True),
    ],
    ids=["transformer", "gru", "lstm"],
)
def test_a_short_text_is_learnt_by_heart_and_recited(config):
    alphabet = sorted(set(TEXT))
    x = torch.tensor([[alphabet.index(c) for c in TEXT]])
    torch.manual_seed(0)
    model = FAMILIES["transformer" if isinstance(config, TransformerConfig) else "rnn"](config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    start = model.loss(x).item()
    assert start == pytest.approx(len(TEXT) * math.log(20), rel=0.1)
    for _ in range(100):
        optimizer.zero_grad()
        loss = model.loss(x)
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.05 * len(TEXT)
    recited = model.eval().sample((), length=len(TEXT), temperature=0.0)
    assert "".join(alphabet[i] for i in recited) == TEXT


@pytest.mark.parametrize("layers", [1, 4])
def test_a_transformer_begins_as_gpt_2(layers):
    torch.manual_seed(0)
    model = Transformer(TransformerConfig(vocabulary=300, layers=layers, width=64))
    for block in model.stack.blocks:
        for module, std in (
            (block.qkv, 0.02),
            (block.up, 0.02),
            (block.out, 0.02 / math.sqrt(2 * layers)),
            (block.down, 0.02 / math.sqrt(2 * layers)),
        ):
            assert module.weight.std().item() == pytest.approx(std, rel=0.05)
    assert model.embedding.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert "head.weight" not in model.state_dict()


@torch.no_grad()
def test_rotary_attention_knows_distances_and_no_places():
    model = make_model(small(positions="rotary", length=40, layers=1)).double()
    block, x = model.stack.blocks[0], torch.randn(1, 6, 8, dtype=torch.float64)
    early, late = (block(x, model.stack.rotary[:, t : t + 6]) for t in (0, 30))
    torch.testing.assert_close(early, late, atol=1e-6, rtol=1e-6)
    assert not torch.allclose(early, block(x, None))


def test_dropout_is_of_training_alone():
    for config in (small(dropout=0.5), rnn(dropout=0.5, layers=2)):
        model, x = make_model(config), tokens(2, 8)
        assert torch.equal(model(x), model(x))
        model.train()
        assert not torch.equal(model(x), model(x))


def brute_force(text, order, vocabulary, context, token, alpha):
    """The smoothed share of `token` among what followed `context`, counted one by one."""
    grams = Counter(tuple(text[i : i + order + 1]) for i in range(len(text) - order))
    total = sum(n for gram, n in grams.items() if gram[:-1] == context)
    return (grams[(*context, token)] + alpha) / (total + alpha * vocabulary)


def witten_bell(text, vocabulary, context, token):
    lower = 1 / vocabulary
    for order in range(len(context) + 1):
        h = context[len(context) - order :]
        after = [
            text[i + order] for i in range(len(text) - order) if tuple(text[i : i + order]) == h
        ]
        if after:
            kinds = len(set(after))
            lower = (after.count(token) + kinds * lower) / (len(after) + kinds)
    return lower


@pytest.mark.parametrize("order", [0, 1, 3])
def test_a_markov_table_is_the_empirical_conditional(order):
    text = tokens(1, 200, seed=3, vocabulary=4)[0]
    additive, backoff = (
        Markov(MarkovConfig(4, order, smoothing, alpha=0.25)).fit(text)
        for smoothing in ("additive", "backoff")
    )
    x = tokens(1, 8, seed=4, vocabulary=4)
    for t in range(8):
        context = tuple(x[0, max(0, t - order) : t].tolist())
        for token in range(4):
            whole = text.tolist()
            p = additive(x)[0, t, token].exp().item()
            expected = brute_force(whole, len(context), 4, context, token, 0.25)
            assert p == pytest.approx(expected, rel=1e-12)
            p = backoff(x)[0, t, token].exp().item()
            assert p == pytest.approx(witten_bell(whole, 4, context, token), rel=1e-12)


def test_a_markov_table_of_rows_counts_within_rows():
    rows = torch.tensor([[0, 1], [2, 0], [1, 2]])
    model = Markov(MarkovConfig(3, 1, "additive", alpha=1e-9)).fit(rows)
    # After 0 came 1 and after 1 came 2, and after 2 came 0: never what another row begins with.
    p = model(torch.tensor([[0, 0], [1, 0], [2, 0]])).exp()[:, 1]
    torch.testing.assert_close(p, torch.eye(3).roll(1, 1).double(), atol=1e-6, rtol=0)


def test_a_markov_table_that_was_not_fitted_is_uniform():
    for smoothing in ("additive", "backoff"):
        model = Markov(MarkovConfig(4, 2, smoothing))
        log_p = model.log_prob(tokens(2, 5, vocabulary=4))
        torch.testing.assert_close(log_p, torch.full((2,), -5 * math.log(4), dtype=torch.float64))
    # Of rows shorter than the order, the lower orders are fitted.
    model.fit(torch.tensor([1, 1]))
    assert model(torch.tensor([[1, 1, 1]])).argmax(-1).tolist() == [[1, 1, 1]]


@pytest.mark.parametrize("shape", [(), (5,), (2, 3)])
@pytest.mark.parametrize("shared", [False, True])
def test_a_histogram_is_the_counts_and_the_maximum_of_the_likelihood(shape, shared):
    x = torch.randint(4, (300, *shape), generator=torch.Generator().manual_seed(0)).clamp(max=2)
    model = Histogram(HistogramConfig(shape, 4, shared)).fit(x, smoothing=0.5)
    flat = x.reshape(300, -1)
    columns = [flat.flatten()] if shared else flat.unbind(1)
    expected = sum(
        (
            torch.stack([(column == k).sum() for k in range(4)]).double().add(0.5)
            / (len(column) + 2)
        ).log()[values]
        for column, values in zip(
            columns * (flat.shape[1] if shared else 1), flat.unbind(1), strict=True
        )
    )
    torch.testing.assert_close(model.log_prob(x).double(), expected, rtol=1e-5, atol=1e-5)

    best = Histogram(HistogramConfig(shape, 3, shared), dtype=torch.float64).fit(x, smoothing=0)
    (gradient,) = torch.autograd.grad(best.loss(x), [best.logits])
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), atol=1e-12, rtol=0)


def test_a_histogram_is_sampled_and_saved(tmp_path):
    x = torch.tensor([[0, 2], [1, 2], [1, 2], [1, 0]])
    model = Histogram(HistogramConfig((2,), 3)).fit(x)
    model.save_pretrained(tmp_path)
    again = Histogram.from_pretrained(tmp_path)
    drawn = again.sample((20_000,), generator=torch.Generator().manual_seed(0))
    p = torch.stack([(drawn == k).double().mean(0) for k in range(3)], dim=1)
    torch.testing.assert_close(p, model.logits.softmax(1).double(), atol=0.02, rtol=0)
    assert model.sample((2, 3)).shape == (2, 3, 2)
    noise = model.draw_noise(3)
    assert torch.equal(model.sample(3, noise=noise), again.sample(3, noise=noise))
    # Of what may be drawn, likelier values alone are left.
    assert model.sample(200, top_k=1).unique(dim=0).tolist() == [[1, 2]]
    assert torch.equal(model.sample(200, temperature=0.0), model.sample(200, top_p=0.4))
    warm = model.sample(20_000, temperature=2.0, generator=torch.Generator().manual_seed(0))
    share, p = (warm[:, 1] == 2).double().mean().item(), model.logits[1].div(2).softmax(0)[2]
    assert share == pytest.approx(p.item(), abs=0.02)
    with pytest.raises(ValueError, match="top_k must be at least 1; got 0"):
        model.sample(2, top_k=0)
    with pytest.raises(ValueError, match="smoothing must be positive where a value does not occur"):
        model.fit(x, smoothing=0)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: small(vocabulary=0), "vocabulary must be at least 1; got 0"),
        (lambda: small(width=9), "width must be a multiple of heads = 2; got 9"),
        (lambda: small(width=6, positions="rotary"), "an even number of channels each"),
        (lambda: small(positions="sine"), "positions must be one of learned, rotary; got 'sine'"),
        (lambda: small(dropout=1.0), r"dropout must be in \[0, 1\); got 1.0"),
        (lambda: small(heads=0), "heads must be at least 1; got 0"),
        (lambda: rnn(cell="tanh"), "cell must be one of gru, lstm; got 'tanh'"),
        (lambda: rnn(tied=True, embedding=3), "embedding must be 0 or width = 6"),
        (lambda: MarkovConfig(order=-1), "order must be at least 0; got -1"),
        (lambda: MarkovConfig(order=9), "order must leave fewer than 2.63 contexts .* got 9"),
        (lambda: MarkovConfig(alpha=0.0), "alpha must be positive; got 0.0"),
        (lambda: MarkovConfig(smoothing="kneser"), "smoothing must be one of"),
        (lambda: HistogramConfig(levels=0), "levels must be at least 1"),
        (lambda: HistogramConfig((0, 3)), "event_shape must hold positive sizes"),
    ],
)
def test_configuration_errors_name_the_field(make, match):
    with pytest.raises(ValueError, match=match):
        make()


@pytest.mark.parametrize(
    ("x", "context", "error", "match"),
    [
        (
            torch.zeros(3),
            torch.zeros(3).long(),
            ValueError,
            r"x must have shape \(B, T\) with T > 0",
        ),
        (torch.zeros(3, 0), torch.zeros(3).long(), ValueError, "with T > 0; got"),
        (torch.full((3, 4), V), torch.zeros(3).long(), ValueError, "x must hold values in 0 .. 2"),
        (torch.full((3, 4), 0.5), torch.zeros(3).long(), ValueError, "x must hold integers"),
        (
            torch.zeros(3, 10),
            torch.zeros(3).long(),
            ValueError,
            "at most length = 9 tokens; got 10",
        ),
        (torch.zeros(3, 4), None, ValueError, "context must hold labels of 2 classes; got None"),
        (torch.zeros(3, 4), torch.zeros(3), TypeError, "context must be int64 labels"),
        (
            torch.zeros(3, 4),
            torch.tensor([0, 1, 2]),
            ValueError,
            "context must hold values in 0 .. 1",
        ),
    ],
)
def test_input_errors_name_the_argument(x, context, error, match):
    with pytest.raises(error, match=match):
        make_model(small(classes=2)).log_prob(x, context)


def test_models_without_classes_take_no_context():
    for config in VARIANTS.values():
        model = make_model(config)
        assert isinstance(model, TokenModel)
        if not model.classes:
            with pytest.raises(ValueError, match="context must be None without classes"):
                model.log_prob(tokens(2, 3), torch.zeros(2).long())
