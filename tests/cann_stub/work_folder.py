"""What the tests look at in the work folder of a training."""

import json

import torch


def read_losses(work):
    """Return the logged losses of the one run of a work folder."""
    (log,) = work.glob('*.log.json')
    lines = map(json.loads, log.read_text().splitlines())
    return [line['loss'] for line in lines if line.get('mode') == 'train']


def same_weights(one, other):
    """Tells whether two checkpoints hold the same bits."""
    weights = [
        torch.load(str(path), map_location='cpu')['state_dict']
        for path in (one, other)
    ]
    assert list(weights[0]) == list(weights[1])
    return all(
        torch.equal(weights[0][key], weights[1][key]) for key in weights[0]
    )
