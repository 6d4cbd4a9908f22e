"""A discriminator in training beside what it judges: its own steps, and how hard it pulls."""

import torch
from jaxtyping import Float
from torch import Tensor

from models.discriminator import PatchDiscriminator, adaptive_weight, hinge_loss
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
        """It pulls with `weight` times the other losses' strength, from step `after` on."""
        self.discriminator, self.weight, self.after, self.processes = discriminator, weight, after, processes
        self.parameters = list(discriminator.parameters())
        self.optimizer = torch.optim.AdamW(self.parameters, lr=learning_rate, betas=(0.5, 0.9))

    def judge(
        self,
        loss: Float[Tensor, ""],
        made: Float[Tensor, "batch channel height width"],
        truth: Float[Tensor, "batch channel height width"],
        last: Tensor,
        step: int,
    ) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """A step of the discriminator, and a term whose gradient is the weighted adversarial loss's.

        `last` are the weights of the layer that `made` comes out of: there its pull is weighed against that of `loss`.

        One pass serves both: cut off at the images made, it gives the discriminator's loss, which goes no further
        back, and the adversarial loss's gradient at these images, which is all that their maker needs of it.
        """
        shown = made.detach().requires_grad_()
        device = self.processes.device.type
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            real_logits, made_logits = self.discriminator.judge(truth, shown)
        adversarial = -made_logits.mean()
        term, factor = torch.zeros_like(adversarial), torch.zeros_like(adversarial)
        if step >= self.after:
            (pull,) = torch.autograd.grad(adversarial, shown, retain_graph=True)
            factor = self.weight * _balance(loss, made, pull, last)
            term = factor * (made * pull).sum()
        judging = hinge_loss(real_logits, made_logits)
        self.optimizer.zero_grad()
        judging.backward(inputs=self.parameters)
        self.processes.average_gradients(self.parameters)
        self.optimizer.step()
        return term, {
            "adversarial": adversarial.detach(),
            "adversarial_factor": factor,
            "discriminator_loss": judging.detach(),
        }


def _balance(
    loss: Float[Tensor, ""],
    made: Float[Tensor, "batch channel height width"],
    pull: Float[Tensor, "batch channel height width"],
    last: Tensor,
) -> Float[Tensor, ""]:
    """The adaptive weight, from both gradients at the last layer; each process has its own."""
    (other,) = torch.autograd.grad(loss, last, retain_graph=True)
    (adversarial,) = torch.autograd.grad(made, last, pull, retain_graph=True)
    return adaptive_weight(other, adversarial)
