from __future__ import annotations

import torch

from dgm_fast.sampling import naive_sample

B, D = 3, 5


def weighted_sum(x):
    """Parameters of feature d: a sum over the others, so that the order of filling in shows."""
    weight = torch.arange(D * D, dtype=x.dtype).view(D, D).fill_diagonal_(0) / 10
    return (x @ weight.T + 1).unsqueeze(-1)


def pick(parameters, noise):
    return (parameters[..., 0] * noise[..., 0]) + noise[..., 1]


def test_each_feature_is_picked_given_those_before_it():
    noise = torch.rand(B, D, 2, dtype=torch.float64)
    order = [2, 0, 4, 1, 3]

    x = naive_sample(weighted_sum, pick, noise, order, torch.zeros(B, D, dtype=torch.float64))

    for step, feature in enumerate(order):
        before = torch.zeros_like(x)
        before[:, order[:step]] = x[:, order[:step]]
        expected = pick(weighted_sum(before)[:, feature], noise[:, feature])
        torch.testing.assert_close(x[:, feature], expected)


def test_one_pass_a_feature():
    passes = []

    def count(x):
        passes.append(x.clone())
        return weighted_sum(x)

    naive_sample(count, pick, torch.rand(B, D, 2), range(D), torch.zeros(B, D))

    assert len(passes) == D


def test_features_left_out_keep_their_values_and_the_start_is_not_modified():
    start = torch.rand(B, D)
    before = start.clone()

    x = naive_sample(weighted_sum, pick, torch.rand(B, D, 2), [3, 1], start)

    assert torch.equal(start, before)
    assert torch.equal(x[:, [0, 2, 4]], start[:, [0, 2, 4]])
    assert not torch.equal(x[:, [1, 3]], start[:, [1, 3]])


def test_given_features_stay_and_the_others_are_drawn_given_those_before_them():
    torch.manual_seed(0)
    noise = torch.rand(B, D, 2, dtype=torch.float64)
    start = torch.rand(B, D, dtype=torch.float64)
    given = torch.rand(B, D) < 0.5
    given[:, 2] = True
    blank = start * given

    x = naive_sample(weighted_sum, pick, noise, range(D), blank, given=given)

    assert torch.equal(x[given], start[given])
    for feature in range(D):
        seen = torch.where(given | (torch.arange(D) < feature), x, 0.0)
        expected = pick(weighted_sum(seen)[:, feature], noise[:, feature])
        new = ~given[:, feature]
        torch.testing.assert_close(x[new, feature], expected[new])


def test_what_is_given_to_all_costs_no_pass_and_progress_counts_it():
    passes, told = [], []
    given = torch.zeros(B, D, dtype=torch.bool)
    given[:, 1:3] = True

    naive_sample(
        lambda x: passes.append(None) or weighted_sum(x),
        pick,
        torch.rand(B, D, 2),
        range(D),
        torch.zeros(B, D),
        given=given,
        progress=lambda done, of: told.append((done, of)),
    )

    assert len(passes) == D - 2
    assert told == [(done, D) for done in range(1, D + 1)]


def test_features_of_several_values():
    def parameters_of(x):
        before = x.cumsum(1) - x
        return torch.cat([before, before.sum(-1, keepdim=True)], dim=-1)

    noise = torch.rand(B, D, 2)
    given = torch.zeros(B, D, dtype=torch.bool)
    given[0, 3] = True
    start = torch.full((B, D, 2), 9.0) * given[..., None]

    x = naive_sample(
        parameters_of,
        lambda parameters, noise: parameters[:, :2] + noise,
        noise,
        range(D),
        start,
        given=given,
    )

    assert x.shape == (B, D, 2)
    assert x[0, 3].tolist() == [9, 9]
    torch.testing.assert_close(x[:, 1], noise[:, 0] + noise[:, 1])
