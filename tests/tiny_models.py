"""The smallest models that runners of mmcv can train.

A test that is about the form of a model has its own.
"""

from torch import nn


class Steps(nn.Module):
    """What a runner calls; a subclass has ``forward``, (batch, 1)."""

    def train_step(self, data, optimizer, **kwargs):
        loss = self.loss(data)
        return dict(
            loss=loss, log_vars=dict(loss=loss.item()), num_samples=len(data)
        )

    def val_step(self, data, optimizer, **kwargs):
        # That of the instance, which a test may have replaced.
        return self.train_step(data, optimizer, **kwargs)

    def loss(self, data):
        return self(data).pow(2).mean()


class Linear(Steps):
    """A linear layer that learns zero.

    Args:
        inputs (int): Features of a sample.
    """

    def __init__(self, inputs=4):
        super().__init__()
        self.layer = nn.Linear(inputs, 1)

    def forward(self, x):
        return self.layer(x)


class Convolutions(Steps):
    """Convolution, batch norm and dropout, as real models have; learns one.

    Args:
        inputs (int): Channels of a picture.
        width (int): Channels behind the convolution.
    """

    def __init__(self, inputs=1, width=3):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, width, 3),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Dropout(0.3),
        )
        self.head = nn.Linear(width, 1)

    def forward(self, x):
        return self.head(self.body(x).mean((2, 3)))

    def loss(self, data):
        return (self(data) - 1).pow(2).mean()
