"""The certified accuracy of scikit-learn's digits: for how many images is the label proved to stay, whatever small changes are made to all pixels?

    python examples/sklearn_digits.py

A network of scikit-learn, trained here; 100 images that it has not seen; three radii. The page digits.html shows every counterexample as a picture.
"""

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

import verify


def trained() -> tuple[torch.nn.Module, object, object]:
    """A classifier as a module of torch, and the images that it was not trained on."""
    x, y = load_digits(return_X_y=True)
    x_train, x_test, y_train, y_test = train_test_split(x / 16, y, random_state=0)
    network = MLPClassifier((40, 40), random_state=0, alpha=1.0, max_iter=60, early_stopping=True)
    network.fit(x_train, y_train)
    layers: list[torch.nn.Module] = [torch.nn.Flatten()]  # of images, which the page can show
    for weight, bias in zip(network.coefs_, network.intercepts_, strict=True):
        layer = torch.nn.Linear(*weight.shape)
        layer.load_state_dict({"weight": torch.tensor(weight.T), "bias": torch.tensor(bias)})
        layers += [layer, torch.nn.ReLU()]
    return torch.nn.Sequential(*layers[:-1]), x_test.reshape(-1, 8, 8), y_test


def main(images: int = 100) -> verify.Study:
    """Certifies, and writes the page."""
    model, x, y = trained()
    study = verify.certify(model, x, y, epsilon=[0.01, 0.03, 0.06], limit=images, timeout=5)
    verify.report(study, "digits.html")
    return study


if __name__ == "__main__":
    print(main())
