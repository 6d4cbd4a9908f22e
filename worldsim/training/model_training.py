"""Settings of the world model's training."""

from dataclasses import dataclass, field, replace
from pathlib import Path

from models.attention import Attention
from models.schedule import Schedule
from worldsim.errors import check_at_least
from worldsim.presets import Preset, preset
from worldsim.recall import Measure
from worldsim.training.ahead import AheadSettings
from worldsim.training.loop import LoopSettings
from worldsim.training.recalling import RecallMixture
from worldsim.training.self_rollout import SelfRolloutSettings


@dataclass(frozen=True, kw_only=True)
class ModelTraining:
    """Train the world model on recorded episodes; needs the run's autoencoder, descriptor and odometer."""

    data: Path
    """folder of recorded episodes"""
    out: Path
    """the run folder that `worldsim train autoencoder`, `… descriptor` and `… odometer` filled"""
    preset: str = "default"
    """tiny, default or large"""
    schedule: str | None = None
    """in FramePack's notation; None takes the preset's"""
    codes: int = 128
    """K-Means codes of a discretised history, where the schedule says +D"""
    warm_start: Path | None = None
    """checkpoint folder whose weights training begins with"""
    loop: LoopSettings = field(default_factory=lambda: LoopSettings(steps=20_000))
    attention: Attention = "once"
    """who looks at whom: once, joint or causal, see `models.attention`"""
    measure: Measure = "learned"
    """what recall and ranking go by: the learned keys with time and place, or the paper's cosine of latents with time"""
    recall: RecallMixture = field(default_factory=RecallMixture)
    own_frames: SelfRolloutSettings = field(default_factory=SelfRolloutSettings)
    ahead: AheadSettings = field(default_factory=AheadSettings)
    batch: int = 256
    """moments a step and process"""
    draws: int = 4
    """noise draws that share one history pass"""
    shift: float = 2.0
    """of noise levels: above 1, more weight on high noise (Esser et al. 2024, equation 23)"""
    learning_rate: float = 2e-3
    """highest learning rate"""
    weight_decay: float = 0.05
    """of the matrices that Muon trains"""
    adversarial_weight: float = 0.0
    """weight of the loss of a discriminator of latents beside the flow's: what a little noise leaves to be guessed then
    looks like a true frame even where no true one is known, and worlds of the model's own stay sharp (adversarial
    diffusion distillation, Sauer et al. 2023). 0 trains without"""
    adversarial_after: int = 200
    """steps until the discriminator, which trains from the beginning, is listened to"""
    discriminator_learning_rate: float = 1e-3
    """highest learning rate of the discriminator"""
    history_noise: float = 0.5
    """highest noise level on true histories (GameNGen, Valevski et al. 2024, section 3.2.1), told to the model"""
    clean_share: float = 0.3
    """part of the histories that stay clean"""
    validation_episodes: int = 8
    """episodes of each process that only previews and validation see"""
    shard: bool = False
    """split weights, gradients and optimiser states over the processes of torchrun (FSDP2), where one device cannot
    hold them; otherwise every process has all of them and gradients are averaged (data parallel)"""
    compile: bool = False
    """compile one transformer block and use it for all (GPU)"""
    seed: int = 0
    """chooses weights and batches"""
    workers: int = 8
    """processes that read episodes, a training process"""
    device: str = "auto"
    """auto, cpu, cuda ..."""

    @property
    def sizes(self) -> Preset:
        """The preset with this schedule, attention and measure.

        ValueError if the schedule is none, or of other sections than the descriptor's.
        """
        sizes = preset(self.preset)
        schedule = Schedule.parse(self.schedule or sizes.transformer.schedule)
        if schedule.section != sizes.schedule.section:
            raise ValueError(
                f"schedule {schedule.text!r} makes {schedule.section} frames at once, preset {self.preset!r} "
                f"{sizes.schedule.section}; end it with g{sizes.schedule.section}"
            )
        codes = self.codes if schedule.discretised else 0
        transformer = replace(
            sizes.transformer, schedule=schedule.text, codes=codes, attention=self.attention
        )
        return replace(sizes, transformer=transformer, recall=replace(sizes.recall, measure=self.measure))

    def __post_init__(self) -> None:
        check_at_least(self, 1, "batch", "draws", "workers", "codes")
        check_at_least(self, 0, "validation_episodes", "adversarial_weight", "adversarial_after")
        if self.shift <= 0:
            raise ValueError(f"shift {self.shift} is not above 0")
