"""From PyTorch to evidence: a module becomes an ONNX file by torch.export, a property a VNN-LIB file, and a proof is kept and checked.

pip install onnxscript
python examples/torch_export.py
"""

from pathlib import Path

import torch
from torch import nn

import verify
from verify.checker.checking import check


class Residual(nn.Module):
    """Two layers beside a shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x + self.second(torch.relu(self.first(x))))


def main() -> str:
    """Exports, proves, checks; what the checker says."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), Residual(16), nn.Linear(16, 3)).eval()
    x = torch.full((1, 6), 0.5)
    torch.onnx.export(model, (x,), "residual.onnx", dynamo=True, external_data=False, verbose=False)
    ball = verify.LinfBall(x, epsilon=0.05, label=int(model(x).argmax()))
    Path("ball.vnnlib").write_text(ball.text_for((1, 6), (1, 3)))
    result = verify.verify("residual.onnx", "ball.vnnlib", certificate="ball.cert", timeout=60)
    print(ball, result.verdict)
    return check(
        Path("ball.cert"), Path("residual.onnx"), Path("ball.vnnlib")
    ).sentence  # as `verify check` says it


if __name__ == "__main__":
    print(main())
