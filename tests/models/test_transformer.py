"""The transformer against a plain implementation that attends over [history | section] in one pass."""

from dataclasses import replace
from math import sqrt
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils import _pytree as pytree

import models.graphed  # noqa: F401 - makes histories trees
from models.history import AgedFrames, History
from models.transformer import Block, WorldTransformer, sigma_features
from models.viewpoint import move_features, relative_poses
from worldsim.presets import tiny

NAMES = ("cos", "sin", "world_cos", "world_sin")


def section_inputs(batch: int, section: int = 1, seed: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """Noisy latents, sigma, actions."""
    generator = torch.Generator().manual_seed(seed)
    noisy = torch.randn(batch, section, 4, 12, 16, generator=generator)
    actions = torch.randint(3, (batch, 22 + section, 3), generator=generator)
    return noisy, torch.rand(batch, generator=generator), actions


def turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding as a multiplication of complex numbers."""
    half = x.shape[-1] // 2
    turned = torch.complex(x[..., :half], x[..., half:]) * torch.complex(cos, sin)
    return torch.cat((turned.real, turned.imag), -1)


def plain_block(block: Block, x: Tensor, modulation: Tensor, phases: list[Tensor], sees: Tensor) -> Tensor:
    """One block with an explicit softmax; `modulation` (batch, token, 6, width), `sees` (batch, query, key).

    `phases`: cosines and sines of the view's heads, and of the world's.
    """
    shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = (modulation + block.table).unbind(2)
    width = x.shape[-1]
    dim = width // block.heads
    qkv = (functional.layer_norm(x, (width,)) * (1 + scale_a) + shift_a) @ block.qkv.weight.T
    heads = []
    for head in range(block.heads):
        query, key, value = (
            qkv[..., part * width + head * dim : part * width + (head + 1) * dim] for part in range(3)
        )
        cos, sin = phases[2:] if head >= block.heads - block.world_heads else phases[:2]
        query, key = turn(block.query_norm(query), cos, sin), turn(block.key_norm(key), cos, sin)
        scores = (query @ key.transpose(1, 2) / sqrt(dim)).masked_fill(~sees, -torch.inf)
        heads.append(scores.softmax(-1) @ value)
    x = x + gate_a * (torch.cat(heads, -1) @ block.out.weight.T)
    normed = functional.layer_norm(x, (width,)) * (1 + scale_m) + shift_m
    return x + gate_m * block.down(functional.gelu(block.up(normed), approximate="tanh"))


def one_pass(
    model: WorldTransformer, history: History, noisy: Tensor, sigma: Tensor, actions: Tensor
) -> Tensor:
    """Velocity from the whole sequence at once: who sees whom is told by the attention, token by token."""
    pack, section, window = model.pack(history), noisy.shape[1], model.config.action_window
    own = torch.cat([patch.flatten(2).transpose(1, 2) for patch in model.patchify.proj(
        noisy.transpose(1, 2)).split(1, 2)], 1)  # fmt: skip
    own = own + model.warped.of_tokens(pack.warped).flatten(1, 2)
    per_frame = own.shape[1] // section
    context = pack.tokens.shape[1]
    past = model.history_sigma_mlp(sigma_features(history.sigma))
    conditions = [past + model.history_condition]
    for frame in range(section):
        newest = actions[:, actions.shape[1] - section + frame + 1 - window :][:, :window]
        vector = model.action_embedding(newest).flatten(1)
        move = relative_poses(history.recent_poses[:, -1:], history.section_poses[:, frame])
        steer = model.moves.steer(functional.silu(model.moves.enter(move_features(move)[:, 0])))
        conditions.append(model.sigma_mlp(sigma_features(sigma)) + past + model.action_mlp(vector) + steer)
    counts = torch.tensor([context] + [per_frame] * section)
    condition = torch.stack(conditions, 1).repeat_interleave(counts, 1)
    modulation = model.modulation(functional.silu(condition)).unflatten(-1, (6, -1))
    x = torch.cat((pack.tokens, own), 1)
    both = (pack.phases, pack.section_phases)
    phases = [torch.cat([getattr(one, name) for one in both], -2) for name in NAMES]
    exists = torch.cat((pack.present, pack.present.new_ones(own.shape[:2])), 1)
    sees = exists[:, None, :].repeat(1, x.shape[1], 1)
    if model.config.attention != "joint":
        sees[:, :context, context:] = False
    if model.config.attention == "causal":
        frames = torch.arange(section).repeat_interleave(per_frame).expand(len(x), -1)
        times = torch.cat((pack.times, frames), 1)
        sees &= times[:, :, None] >= times[:, None]
        sees |= torch.eye(x.shape[1], dtype=torch.bool)
    for block in model.blocks:
        x = plain_block(block, x, modulation, phases, sees)
    shift, scale = model.final_modulation(functional.silu(condition)).chunk(2, -1)
    x = model.final(functional.layer_norm(x, x.shape[-1:]) * (1 + scale) + shift)[:, context:]
    values = x.unflatten(1, (section, model.rows, model.cols)).unflatten(-1, (-1, 2, 2))
    coarse = torch.einsum("bfyxcij->bfcyixj", values).flatten(5, 6).flatten(3, 4)
    newest = history.recent[:, -1]
    steered = [functional.silu(vector) for vector in conditions[1:]]
    cells = model.warped_cells(pack.warped)
    frames = [
        model.refiner(coarse[:, i], noisy[:, i], newest, steered[i], cells[:, i]) for i in range(section)
    ]
    return torch.stack(frames, 1)


@pytest.mark.parametrize("attention", ["once", "joint", "causal"])
@pytest.mark.parametrize(("present", "found"), [(22, 4), (5, 1)])
def test_cached_history_equals_one_pass_over_everything(
    transformer_of, a_history, present: int, found: int, attention: str
) -> None:
    """The cache serves every denoising step: it must hold exactly what a full pass would compute each time."""
    filled_transformer = transformer_of(replace(tiny().transformer, attention=attention))
    history = a_history(batch=2, present=present, found=found)
    cache = filled_transformer.encode_history(filled_transformer.pack(history), history.sigma)
    for seed in range(3):
        noisy, sigma, actions = section_inputs(2, seed=seed)
        cached = filled_transformer.denoise(noisy, sigma, actions, cache)
        whole = one_pass(filled_transformer, history, noisy, sigma, actions)
        torch.testing.assert_close(cached, whole, rtol=1e-3, atol=1e-4)
        assert float(whole.std()) > 0.1


@pytest.mark.parametrize("attention", ["once", "joint", "causal"])
def test_a_section_of_several_frames_equals_one_pass(transformer_of, a_history, attention: str) -> None:
    """Each frame of a section has its own window of actions and its own time."""
    model = transformer_of(replace(tiny().transformer, schedule="td_f4k2f2k1_r2k1_g3", attention=attention))
    history = a_history(batch=2, recent=6, present=6, recalled=2, found=2, section=3)
    noisy, sigma, actions = section_inputs(2, section=3)
    cache = model.encode_history(model.pack(history), history.sigma)
    cached = model.denoise(noisy, sigma, actions, cache)
    whole = one_pass(model, history, noisy, sigma, actions)
    torch.testing.assert_close(cached, whole, rtol=1e-3, atol=1e-4)


def test_batch_equals_single(filled_transformer: WorldTransformer, a_history) -> None:
    """Rows of a batch must not see each other."""
    history = a_history(batch=3)
    noisy, sigma, actions = section_inputs(3)
    model = filled_transformer
    together = model.denoise(noisy, sigma, actions, model.encode_history(model.pack(history), history.sigma))
    for i in range(3):
        alone = pytree.tree_map(lambda value, i=i: value[i : i + 1], history)
        cache = model.encode_history(model.pack(alone).without_absent(), alone.sigma)
        single = model.denoise(noisy[i : i + 1], sigma[i : i + 1], actions[i : i + 1], cache)
        torch.testing.assert_close(together[i : i + 1], single, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("attention", ["once", "joint", "causal"])
def test_forward_serves_every_draw_from_one_history_pass(transformer_of, a_history, attention: str) -> None:
    """Repeating the cache must pair each draw with its own history, actions and sigma."""
    filled_transformer = transformer_of(replace(tiny().transformer, attention=attention))
    history = a_history(batch=2)
    _, _, actions = section_inputs(2)
    generator = torch.Generator().manual_seed(5)
    noisy = torch.randn(2, 3, 1, 4, 12, 16, generator=generator)
    sigma = torch.rand(2, 3, generator=generator)
    velocity = filled_transformer(history, noisy, sigma, actions)
    cache = filled_transformer.encode_history(filled_transformer.pack(history), history.sigma)
    for draw in range(3):
        single = filled_transformer.denoise(noisy[:, draw], sigma[:, draw], actions, cache)
        torch.testing.assert_close(velocity[:, draw], single, rtol=1e-3, atol=1e-4)


def test_everything_it_is_told_changes_the_output(filled_transformer: WorldTransformer, a_history) -> None:
    """An input that is wired to nothing trains a model that ignores the player, or its memory."""
    model, history = filled_transformer, a_history(batch=1)
    noisy, sigma, actions = section_inputs(1)

    def velocity(past: History, sigma: Tensor, actions: Tensor) -> Tensor:
        return model.denoise(noisy, sigma, actions, model.encode_history(model.pack(past), past.sigma))

    usual = velocity(history, sigma, actions)
    for back in range(1, 9):
        other = actions.clone()
        other[0, -back, 1] = (other[0, -back, 1] + 1) % 3
        assert not torch.allclose(usual, velocity(history, sigma, other)), f"action {back} back"
    assert torch.equal(usual, velocity(history, sigma, torch.cat((actions[:, :-8] * 0, actions[:, -8:]), 1)))
    changes = {
        "sigma": history.sigma + 0.2,
        "recalled": replace(history.recalled, latents=history.recalled.latents + 1),
        "recalled ages": replace(history.recalled, ages=history.recalled.ages + 500),
        "recent_actions": (history.recent_actions + 1) % 3,
        "recalled present": replace(history.recalled, present=history.recalled.present & False),
        "recent_poses": history.recent_poses * 0.9,
        "recalled poses": replace(history.recalled, poses=history.recalled.poses * 0.9),
        "section_poses": history.section_poses + 5,
    }
    for name, value in changes.items():
        other = replace(history, **{name.split(" ")[0]: value})
        assert not torch.allclose(usual, velocity(other, sigma, actions)), name
    for frame in range(22):
        recent = history.recent.clone()
        recent[:, frame] += 1
        assert not torch.allclose(usual, velocity(replace(history, recent=recent), sigma, actions)), frame
    assert not torch.allclose(usual, velocity(history, sigma + 0.1, actions))


@pytest.mark.parametrize(
    ("schedule", "changed"),
    [
        ("td_f4k2f1k1_g1_x_f1k1", ("last", "last ages", "last poses", "last present", "gap")),
        (
            "f1k1_x_g1_f1k1f4k2_td",
            ("coming", "coming_actions", "coming poses", "coming present", "first ages"),
        ),
        ("td_s2k2_f1k1_g1", ("ranked", "ranked ages", "ranked poses", "ranked present")),
    ],
)
def test_everything_ahead_and_ranked_changes_the_output(
    transformer_of, a_history, schedule: str, changed: tuple[str, ...]
) -> None:
    """A planned end that reaches nothing is no plan; what is absent must not count."""
    model = transformer_of(replace(tiny().transformer, schedule=schedule))
    parts = {
        name: sum(level.frames for level in getattr(model.schedule, name))
        for name in ("recent", "first", "ranked", "coming", "last")
    }
    history = a_history(batch=1, recalled=0, present=parts["recent"], **parts)
    noisy, sigma, actions = section_inputs(1)

    def velocity(past: History) -> Tensor:
        return model.denoise(noisy, sigma, actions, model.encode_history(model.pack(past), past.sigma))

    usual = velocity(history)
    for change in changed:
        name, *what = change.split(" ")
        value = getattr(history, name)
        other = {
            "gap": lambda value: value + 20,
            "coming_actions": lambda value: (value + 1) % 3,
            "ages": lambda value: replace(value, ages=value.ages + 100),
            "poses": lambda value: replace(value, poses=value.poses * 0.9),
            "present": lambda value: replace(value, present=value.present & False),
        }.get((what or [name])[0], lambda value: replace(value, latents=value.latents + 1))(value)
        assert not torch.allclose(usual, velocity(replace(history, **{name: other}))), change
        if "present" in what:
            gone = replace(history, **{name: other})
            wild = replace(other, latents=other.latents - 50, ages=other.ages + 9, poses=other.poses + 77)
            if name != "coming":
                assert torch.equal(velocity(gone), velocity(replace(history, **{name: wild})))


def test_order_of_recalled_frames_is_told_by_slot(filled_transformer: WorldTransformer, a_history) -> None:
    """Slots have positions: frames swapped together with their ages are still another context."""
    model, history = filled_transformer, a_history(batch=1)
    swapped = replace(
        history,
        recalled=AgedFrames(**{name: value.flip(1) for name, value in vars(history.recalled).items()}),
    )
    noisy, sigma, actions = section_inputs(1)
    both = [
        model.denoise(noisy, sigma, actions, model.encode_history(model.pack(past), past.sigma))
        for past in (history, swapped)
    ]
    assert not torch.allclose(*both)


def test_fresh_model_starts_at_zero_velocity(a_history) -> None:
    """Zero-initialised output: training starts from a known loss of 2, not from a random one."""
    model = WorldTransformer.of(tiny().transformer)
    history = a_history(batch=1)
    noisy, sigma, actions = section_inputs(1)
    with torch.no_grad():
        velocity = model(history, noisy[:, None], sigma[:, None], actions)
    assert float(velocity.abs().max()) == 0


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_saved_and_loaded_is_the_same_network(
    filled_transformer: WorldTransformer, a_history, tmp_path: Path, dtype: torch.dtype
) -> None:
    """Rotary phases are not stored: loading must make them anew, or every token stands at place zero."""
    filled_transformer.save_pretrained(tmp_path)
    loaded = WorldTransformer.from_pretrained(tmp_path, torch_dtype=dtype, low_cpu_mem_usage=False).eval()
    history = a_history(batch=1)
    noisy, sigma, actions = section_inputs(1)
    recalled = replace(history.recalled, latents=history.recalled.latents.to(dtype))
    history = replace(history, recent=history.recent.to(dtype), recalled=recalled)
    velocity = loaded(history, noisy[:, None].to(dtype), sigma[:, None], actions)
    expected = filled_transformer(a_history(batch=1), noisy[:, None], sigma[:, None], actions)
    error = (velocity.float() - expected).square().mean().sqrt() / expected.std()
    assert float(error) <= (1e-5 if dtype == torch.float32 else 0.1)


def test_gradients_reach_every_weight(a_history, transformer_of) -> None:
    """A part left out of the graph keeps its random weights for ever."""
    model = transformer_of(tiny().transformer).requires_grad_(True)
    noisy, sigma, actions = section_inputs(2)
    actions[:, -8:] = torch.arange(8).view(1, 8, 1) % 3
    model(a_history(batch=2), noisy[:, None], sigma[:, None], actions).square().mean().backward()
    still = [name for name, p in model.named_parameters() if p.grad is None or not bool(p.grad.any())]
    assert still == []


@pytest.mark.parametrize("section", [1, 2])
def test_only_relative_poses_count(transformer_of, a_history, section: int) -> None:
    """Where a world began and which way it faced must not matter: turn and shift all poses alike."""
    schedule = f"td_f4k2f2k1_r2k1_g{section}"
    model = transformer_of(replace(tiny().transformer, schedule=schedule))
    history = a_history(batch=2, recent=6, present=6, recalled=2, found=2, section=section)

    def elsewhere(poses: Tensor) -> Tensor:
        x, y, heading = poses.double().unbind(-1)
        moved = (0.6 * x - 0.8 * y + 300, 0.8 * x + 0.6 * y - 100, heading + 53.13010235415598 + 720)
        return torch.stack(moved, -1).float()

    moved = replace(
        history,
        recent_poses=elsewhere(history.recent_poses),
        section_poses=elsewhere(history.section_poses),
        recalled=replace(history.recalled, poses=elsewhere(history.recalled.poses)),
        first=replace(history.first, poses=elsewhere(history.first.poses)),
    )
    noisy, sigma, actions = section_inputs(2, section=section)
    velocities = [
        model.denoise(noisy, sigma, actions, model.encode_history(model.pack(past), past.sigma))
        for past in (history, moved)
    ]
    torch.testing.assert_close(*velocities, rtol=5e-3, atol=5e-3)


@pytest.mark.parametrize("attention", ["once", "joint"])
def test_the_newest_rows_of_a_cache_are_those_of_the_rows_alone(
    transformer_of, a_history, attention: str
) -> None:
    """Training goes on with the model's own frames from a part of its batch: the wrong rows would mix worlds."""
    model = transformer_of(replace(tiny().transformer, attention=attention))
    history = a_history(batch=4)
    noisy, sigma, actions = section_inputs(4)
    cache = model.encode_history(model.pack(history), history.sigma)
    part = model.denoise(noisy[2:], sigma[2:], actions[2:], cache.rows(slice(-2, None)))
    torch.testing.assert_close(part, model.denoise(noisy, sigma, actions, cache)[2:], rtol=1e-4, atol=1e-4)
