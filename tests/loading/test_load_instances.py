"""One public network of each family, where they are at hand: it loads (load compares it with ONNX Runtime)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from test_load_operators import check_adjoints

from verify.loading import load

INSTANCES = Path(__file__).resolve().parents[3] / "shared" / "instances"
LOADS = [
    "acasxu/onnx/ACASXU_run2a_1_1_batch_2000",
    "carvana_unet/onnx/unet_simp_small",
    "cgan/onnx/cGAN_imgSz32_nCh_3_nonlinear_activations",
    "cifar10_resnet/onnx/resnet_2b",
    "collins_rul_cnn/onnx/NN_rul_small_window_20",
    "dist_shift/onnx/mnist_concat",
    "eran/onnx/ffnnSIGMOID__Point_6x200",
    "marabou_cifar10/onnx/cifar10_small",
    "ml4acopf/onnx/14_ieee_ml4acopf",
    "ml4acopf/onnx/14_ieee_ml4acopf-linear-nonresidual",
    "ml4acopf/onnx/14_ieee_ml4acopf-linear-residual",
    "mnist_fc/onnx/mnist-net_256x2",
    "nn4sys/onnx/lindex",
    "nn4sys/onnx/mscn_128d",
    "nn4sys/onnx/pensieve_small_parallel",
    "oval21/onnx/cifar_base_kw",
    "reach_prob_density/onnx/gcas",
    "rl_benchmarks/onnx/dubinsrejoin",
    "sri_resnet_a/onnx/resnet_3b2_bn_mixup_adv_4.0_bs128_lr-1",
    "test/onnx/test_nano",
    "test/onnx/test_small",
    "tllverifybench/onnx/tllBench_n=2_N=M=8_m=1_instance_0_0",
    "verivital/onnx/Convnet_avgpool",
    "verivital/onnx/Convnet_maxpool",
    "vit/onnx/ibp_3_3_8",
    "vit/onnx/pgd_2_3_16",
]


def path_of(name: str) -> Path:
    path = INSTANCES / f"{name}.onnx.gz"
    if not path.exists():
        pytest.skip("the public instances are not here")
    return path


@pytest.mark.parametrize("name", LOADS)
def test_public_network(name: str) -> None:
    loaded = load(path_of(name))
    random = np.random.default_rng(11)
    x = random.random((2, loaded.network.inputs)).astype(np.float32)
    found = loaded.network.forward(torch.from_numpy(x).double()).numpy()
    scale = 1 + np.abs(found).max()
    np.testing.assert_allclose(found / scale, loaded.evaluate(x) / scale, atol=1e-4)
    check_adjoints(loaded)
