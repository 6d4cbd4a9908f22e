"""A discriminator in training beside what it judges: its own steps, and how hard it pulls."""

import torch
from jaxtyping import Float
from torch import Tensor

from models.discriminator import PatchDiscriminator, hinge_loss
from worldsim.training.processes import Processes


class Adversary:
    """Learns to tell made images from true ones, and says what would make them look true."""

    def __init__(
        self,
        discriminator: PatchDiscriminator,
        learning_rate: float,
        weight: float,
        after: int,
        processes: Processes,
    ) -> None:
        """It pulls with `weight`, from step `after` on.

        The weight is fixed: VQGAN's (Esser et al. 2021, equation 7), a share of the reconstruction's gradient, falls
        with that gradient to nothing where a training cools down, and squared error wins (docs/training_log.md, 22).
        """
        self.discriminator, self.weight, self.after, self.processes = discriminator, weight, after, processes
        self.parameters = list(discriminator.parameters())
        self.optimizer = torch.optim.AdamW(self.parameters, lr=learning_rate, betas=(0.5, 0.9))

    def judge(
        self,
        made: Float[Tensor, "batch channel height width"],
        truth: Float[Tensor, "batch channel height width"],
        step: int,
    ) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """A step of the discriminator, and a term whose gradient is the weighted adversarial loss's.

        One pass serves both: cut off at the images made, it gives the discriminator's loss, which goes no further
        back, and the adversarial loss's gradient at these images, which is all that their maker needs of it.
        """
        shown = made.detach().requires_grad_()
        device = self.processes.device.type
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            real_logits, made_logits = self.discriminator.judge(truth, shown)
        adversarial = -made_logits.mean()
        term = torch.zeros_like(adversarial)
        if step >= self.after:
            (pull,) = torch.autograd.grad(adversarial, shown, retain_graph=True)
            term = self.weight * (made * pull).sum()
        judging = hinge_loss(real_logits, made_logits)
        self.optimizer.zero_grad()
        judging.backward(inputs=self.parameters)
        self.processes.average_gradients(self.parameters)
        self.optimizer.step()
        return term, {"adversarial": adversarial.detach(), "discriminator_loss": judging.detach()}
