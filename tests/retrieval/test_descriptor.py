"""Descriptors: unit vectors, the same alone as in a batch, saved and loaded unchanged, and able to learn."""

import math

import pytest
import torch

from retrieval import (
    LearnedDescriptor,
    LearnedDescriptorSettings,
    coverage_loss,
    recall_at_k,
)


@pytest.fixture(autouse=True)
def one_thread():
    """Small tensors: several threads on a busy machine are ten times slower than one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def learned(seed=0, **changes):
    settings = LearnedDescriptorSettings(
        **{"channels": 4, "height": 4, "width": 8, "hidden": 16, "dim": 24} | changes
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        descriptor = LearnedDescriptor.from_settings(settings).eval()
        for parameter in descriptor.parameters():  # Away from the identity blocks that it starts from.
            parameter.data += 0.05 * torch.randn_like(parameter)
    return descriptor


def batch_of(descriptor, batch, seed=1):
    config, generator = descriptor.config, torch.Generator().manual_seed(seed)
    shape = (config["window"], config["channels"], config["height"], config["width"])
    latents = torch.randn(batch, *shape, generator=generator)
    steps = (batch, config["steps"], len(config["factor_sizes"]))
    actions = torch.randint(0, min(config["factor_sizes"]), steps, generator=generator)
    present = torch.rand(batch, shape[0], generator=generator) < 0.7
    return latents, actions, present


def test_default_size():
    """Guards the budget: it runs at every step on a CPU and its weights are part of the checkpoint."""
    descriptor = LearnedDescriptor.from_settings(LearnedDescriptorSettings(channels=16))
    assert sum(p.numel() for p in descriptor.parameters()) <= 600_000
    latents, actions, present = batch_of(descriptor, 2)
    assert descriptor.queries(latents, actions, present).shape == (2, descriptor.dim) == (2, 128)
    assert descriptor.keys(latents[:, 0]).shape == (2, 128)
    with pytest.raises(ValueError, match="must be even"):
        LearnedDescriptor(channels=4, height=11)


def test_unit_vectors_and_the_same_alone_as_in_a_batch():
    """Guards against batch statistics: a key must not depend on what else was encoded with it."""
    descriptor = learned(factor_sizes=(3, 5), steps=4, window=3)
    latents, actions, present = batch_of(descriptor, 5)
    with torch.inference_mode():
        queries, keys = descriptor.queries(latents, actions, present), descriptor.keys(latents[:, 0])
        torch.testing.assert_close(queries.norm(dim=1), torch.ones(5))
        torch.testing.assert_close(keys.norm(dim=1), torch.ones(5))
        for i in range(5):
            one = slice(i, i + 1)
            torch.testing.assert_close(
                descriptor.queries(latents[one], actions[one], present[one]), queries[one]
            )
            torch.testing.assert_close(descriptor.keys(latents[one, 0]), keys[one])


def test_absent_latents_are_not_looked_at():
    """Guards against a young world's query depending on what fills the missing places, be it NaN."""
    descriptor = learned()
    latents, actions, present = batch_of(descriptor, 3)
    present[:] = torch.tensor([[1, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0]]).bool()
    queries = descriptor.queries(latents, actions, present)
    other = torch.where(present[..., None, None, None], latents, torch.nan)
    torch.testing.assert_close(descriptor.queries(other, actions, present), queries)
    shown = descriptor.queries(latents, actions, torch.ones_like(present))
    assert ((shown - queries).norm(dim=1) > 1e-3).all()


def test_every_action_of_every_step_matters():
    """Guards against factors or steps that share a row of a table, or are dropped."""
    descriptor = learned(factor_sizes=(2, 3), steps=3)
    latents, _, present = batch_of(descriptor, 1)
    alternatives = torch.zeros(8, 3, 2, dtype=torch.int64)
    for row, (step, factor, choice) in enumerate(
        [(0, 0, 1), (1, 0, 1), (2, 0, 1), (0, 1, 1), (1, 1, 1), (2, 1, 1), (2, 1, 2)], start=1
    ):
        alternatives[row, step, factor] = choice
    queries = descriptor.queries(latents.expand(8, -1, -1, -1, -1), alternatives, present.expand(8, -1))
    assert (torch.cdist(queries, queries) + torch.eye(8)).min() > 1e-4


def test_saved_and_loaded_it_is_the_same(tmp_path):
    """Guards against settings that do not survive JSON (tuples) and weights that are left out."""
    descriptor = learned(factor_sizes=(3, 5), steps=4)
    latents, actions, present = batch_of(descriptor, 3)
    descriptor.save_pretrained(tmp_path)
    loaded = LearnedDescriptor.from_pretrained(tmp_path, low_cpu_mem_usage=False)
    assert torch.equal(
        loaded.queries(latents, actions, present), descriptor.queries(latents, actions, present)
    )
    assert torch.equal(loaded.keys(latents[:, 0]), descriptor.keys(latents[:, 0]))
    assert torch.equal(loaded.logit_scale, descriptor.logit_scale)
    assert {p.name for p in tmp_path.iterdir()} == {"config.json", "diffusion_pytorch_model.safetensors"}


def test_keys_outlast_blur_better_than_another_view():
    """Guards the normalisation: the model's own frames have less contrast, and must be found."""
    descriptor = learned()
    latents = torch.randn(20, 4, 4, 8, generator=torch.Generator().manual_seed(5))
    keys, faded = descriptor.keys(latents), descriptor.keys(0.7 * latents)
    assert (faded @ keys.T).argmax(1).tolist() == list(range(20))


def test_it_learns_where_the_view_will_be():
    """Guards against a query blind to its actions: the coming view is the last one moved as the action says.

    Worlds are strips of noise, views windows of 8 columns; actions move the window by -3, 0, 3. Past views
    of the same strip at every offset are candidates: chance and "what resembles the last frame" fail.
    """
    descriptor = learned(factor_sizes=(3,), steps=1, window=1).train()
    generator = torch.Generator().manual_seed(7)
    optimizer = torch.optim.AdamW(descriptor.parameters(), lr=3e-3)
    ones = torch.ones(48, 1).bool()

    def step():
        strips = torch.randn(48, 4, 4, 20, generator=generator)
        views = strips.unfold(3, 8, 1).permute(0, 3, 1, 2, 4)  # (batch, 13 offsets, channel, row, column)
        rows = torch.arange(48)
        starts = torch.randint(3, 10, (48,), generator=generator)
        actions = torch.randint(0, 3, (48, 1, 1), generator=generator)
        goals = starts + 3 * (actions[:, 0, 0] - 1)
        queries = descriptor.queries(views[rows, starts][:, None], actions, ones)
        keys = descriptor.keys(views.flatten(0, 1)).unflatten(0, (48, 13))
        relevance = (1 - (torch.arange(13) - goals[:, None]).abs() / 2).clamp_min(0)
        valid = torch.ones_like(relevance).bool()
        loss = coverage_loss(queries, keys, relevance, valid, descriptor.logit_scale)
        return loss, recall_at_k(torch.einsum("bd,bnd->bn", queries, keys), relevance, valid, 1).item()

    history = []
    for _ in range(150):
        loss, recall = step()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(recall)
    start, end = sum(history[:5]) / 5, sum(history[-10:]) / 10
    assert start < 0.4  # What resembles the last frame is right where the action is "none".
    assert end > 0.5, f"recall@1 {start:.2f} -> {end:.2f}"
    assert math.isfinite(descriptor.logit_scale.item())
