"""The codebook against brute force, and what a model that sees codes cannot see."""

from dataclasses import replace

import pytest
import torch

from models.codebook import Codebook, fit_codebook, report
from worldsim.presets import tiny


def fitted(codes: int, pixels: torch.Tensor) -> Codebook:
    codebook = Codebook(codes, pixels.shape[1])
    codebook.codes.copy_(fit_codebook(pixels, codes))
    return codebook


def some_latents(count: int = 6) -> torch.Tensor:
    return torch.randn(count, 4, 12, 16, generator=torch.Generator().manual_seed(0))


def pixels_of(latents: torch.Tensor) -> torch.Tensor:
    return latents.movedim(1, -1).flatten(0, -2)


def test_every_pixel_becomes_its_nearest_code() -> None:
    """Q(F)_p = argmin_k ‖F_p − Ω_k‖, pixel by pixel."""
    latents = some_latents()
    codebook = fitted(16, pixels_of(latents))
    made = codebook(latents[None])[0]
    for pixel, code in zip(pixels_of(latents)[::37], pixels_of(made)[::37], strict=True):
        distances = (codebook.codes - pixel).norm(dim=1)
        assert torch.equal(code, codebook.codes[distances.argmin()])
    assert torch.equal(codebook(made), made)


def test_report_of_clusters_that_are_known() -> None:
    """Four clusters: four codes keep nearly all variance, one keeps none, and of more codes none need be dead."""
    generator = torch.Generator().manual_seed(0)
    centres = 10 * torch.eye(4)[torch.randint(4, (8, 12, 16), generator=generator)].movedim(-1, 1)
    latents = centres + 0.1 * torch.randn(centres.shape, generator=generator)
    found = report(fitted(4, pixels_of(latents)), latents)
    assert found.variance_kept > 0.99
    assert found.dead_codes == 0
    one = report(fitted(1, pixels_of(latents)), latents)
    assert one.variance_kept == pytest.approx(0, abs=0.01)
    dead = fitted(4, pixels_of(latents))
    dead.codes[0] = 1e4
    assert report(dead, latents).dead_codes == 1


def test_more_codes_keep_more() -> None:
    """K = 1 keeps nothing, K → ∞ all."""
    latents = some_latents(2)
    kept = [report(fitted(codes, pixels_of(latents)), latents).variance_kept for codes in (1, 4, 32, 256)]
    assert kept == sorted(kept)
    assert kept[0] == pytest.approx(0, abs=0.01)
    assert kept[-1] > 0.8


@pytest.mark.parametrize("codes", [0, 41])
def test_more_codes_than_pixels_are_refused(codes: int) -> None:
    with pytest.raises(ValueError, match=f"{codes} codes for 40 latent pixels"):
        fit_codebook(pixels_of(some_latents(1))[:40], codes)


@pytest.mark.parametrize(("schedule", "codes"), [("td_f2k1_r1k1_g1+D", 0), ("td_f2k1_r1k1_g1", 8)])
def test_codes_and_schedule_must_agree(transformer_of, schedule: str, codes: int) -> None:
    """A discretised model without codes would see one grey wall, the other would carry dead weight."""
    with pytest.raises(ValueError, match=r"\+D"):
        transformer_of(replace(tiny().transformer, schedule=schedule, codes=codes))


def test_errors_smaller_than_a_code_are_not_seen(transformer_of, a_history) -> None:
    """What discretisation is for: small drift of any history frame leaves the pack as it was; a large one does not."""
    schedule = "f1k1_tc_f2k2f1k1_r2k1_g1+D"
    model = transformer_of(replace(tiny().transformer, schedule=schedule, codes=6))
    model.codebook.codes.copy_(fit_codebook(pixels_of(some_latents()), 6))
    past = a_history(batch=1, recent=3, present=3, recalled=2, found=2, first=1, tail=1)
    snapped = replace(
        past,
        recent=model.codebook(past.recent),
        **{
            name: replace(getattr(past, name), latents=model.codebook(getattr(past, name).latents))
            for name in ("recalled", "first", "tail")
        },
    )
    usual = model.pack_clean(snapped)
    assert torch.equal(usual.tokens, model.pack(snapped).tokens)
    for amount, same in ((0.01, True), (3.0, False)):
        drifted = replace(snapped, recent=snapped.recent + amount)
        pack = model.pack_clean(drifted)
        assert torch.equal(pack.tokens, usual.tokens) is same
        assert torch.equal(pack.newest, usual.newest) is same
