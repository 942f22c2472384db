"""A controller in its loop: a cart is to be braked to a stop. Where can it be after each of 20 steps, from any start in a box?

    python examples/closed_loop.py

The controller is a network that imitates a linear one. The page loop.html shows the tube of all states, with some trajectories in it.
"""

import torch
from torch import nn

import verify


def controller() -> nn.Module:
    """A force for each state, a position and a speed; trained in a second."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(2, 10), nn.ReLU(), nn.Linear(10, 1))
    optimiser = torch.optim.Adam(network.parameters(), 0.02)
    for _ in range(300):
        state = 4 * torch.rand(256, 2) - 2
        loss = ((network(state)[:, 0] + (state * torch.tensor([1.0, 1.7])).sum(1)) ** 2).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return network


class Loop(nn.Module):
    """The state a tenth of a second later."""

    def __init__(self) -> None:
        super().__init__()
        self.controller = controller()

    def forward(self, state: torch.Tensor) -> torch.Tensor:
        position, speed = state[:, :1], state[:, 1:]
        return torch.cat([position + 0.1 * speed, speed + 0.1 * self.controller(state)], 1)


def main(steps: int = 20) -> verify.Tube:
    """Follows the loop, and writes the page."""
    tube = verify.reach(Loop(), box=([0.9, -0.1], [1.1, 0.1]), steps=steps, horizon=4, pieces=2)
    verify.report(tube, "loop.html")
    return tube


if __name__ == "__main__":
    found = main()
    for step, (low, high) in enumerate(zip(found.lower, found.upper, strict=True)):
        print(
            f"step {step:2d}: position in [{low[0]:.3f}, {high[0]:.3f}], speed in [{low[1]:.3f}, {high[1]:.3f}]"
        )
    print("the position stays above 0:", found.stays_within([0.0, -1.0], [2.0, 1.0]))
