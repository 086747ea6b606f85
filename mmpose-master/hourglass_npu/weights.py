"""Load a checkpoint into a model that it must fit."""

from hourglass_npu.errors import UserError, is_user_error

SHOWN = 4
"""Most tensors that a message names."""


def read_weights(path):
    """Read a checkpoint.

    Args:
        path (str): The file.

    Returns:
        tuple[dict, dict[str, Tensor]]: Its content, and its weights by name.

    Raises:
        UserError: It cannot be read, or holds no weights.
    """
    import torch
    from mmcv.runner import _load_checkpoint

    try:
        checkpoint = _load_checkpoint(path, 'cpu', logger='silent')
    except Exception as error:  # pickle raises anything at broken files
        if is_user_error(error):
            raise
        reason = ' '.join(str(error).split())
        raise UserError(f'{path} cannot be read: {reason}') from error
    weights = _weights_of(checkpoint)
    if weights is None or not all(
        isinstance(value, torch.Tensor) for value in weights.values()
    ):
        raise UserError(f'{path} holds no weights (tensors by name)')
    return checkpoint, weights


def _weights_of(checkpoint):
    saved = checkpoint
    if isinstance(checkpoint, dict):
        saved = checkpoint.get('state_dict', checkpoint)
    if not isinstance(saved, dict) or not all(
        isinstance(key, str) for key in saved
    ):
        return None
    return {
        key[7:] if key.startswith('module.') else key: value
        for key, value in saved.items()
    }


def _faults(own, weights):
    """Say how two models differ, by their tensors."""
    missing = [key for key in own if key not in weights]
    strange = [key for key in weights if key not in own]
    other = [
        key
        for key in own
        if key in weights and own[key].shape != weights[key].shape
    ]
    faults = []
    if missing:
        faults.append(f'{len(missing)} missing, such as {missing[0]}')
    if strange:
        faults.append(f'{len(strange)} unknown, such as {strange[0]}')
    if other:
        key = other[0]
        faults.append(
            f'{len(other)} of another shape, such as {key}: '
            f'{tuple(weights[key].shape)} instead of {tuple(own[key].shape)}'
        )
    return '; '.join(faults)


def load_weights(model, path):
    """Load a checkpoint that must fit the model to the last tensor.

    Args:
        model (nn.Module): The bare model, on the CPU; changed in place.
        path (str): Checkpoint.

    Returns:
        dict: ``meta`` of the checkpoint; empty if it has none.

    Raises:
        UserError: The checkpoint cannot be read, or is of another model.
    """
    checkpoint, weights = read_weights(path)
    own = model.state_dict()
    faults = _faults(own, weights)
    if faults:
        raise UserError(
            f'{path} is a checkpoint of another model than the config '
            f'describes. It holds {len(weights)} tensors, the model has '
            f'{len(own)}: {faults}.'
        )
    model.load_state_dict(weights)
    meta = checkpoint.get('meta')
    return meta if isinstance(meta, dict) else {}


def _own(model):
    """Return the tensors of a model as checkpoints hold them."""
    from mmcv.runner.checkpoint import get_state_dict

    return get_state_dict(getattr(model, 'module', model))


def check_same_model(model, path):
    """Refuse to resume the training of another model.

    Args:
        model (nn.Module): The model, in its wrapper or not.
        path (str): Checkpoint.

    Raises:
        UserError: Its tensors are not those of the model; averages that
            mmcv's ``EMAHook`` has put beside them do not count.
    """
    _, weights = read_weights(path)
    own = _own(model)
    # The averages are buffers that come when the run starts.
    weights = {
        key: value
        for key, value in weights.items()
        if key in own or not key.startswith('ema_')
    }
    faults = _faults(
        {k: v for k, v in own.items() if 'num_batches_tracked' not in k},
        {k: v for k, v in weights.items() if 'num_batches_tracked' not in k},
    )
    if faults:
        raise UserError(
            f'{path} is a checkpoint of another model than the config '
            f'describes ({faults}), and a training is resumed with its own: '
            'to begin a new one with these weights, give load_from instead'
        )


def count_fitting(model, checkpoint):
    """Count what a checkpoint has put into a model.

    Args:
        model (nn.Module): The model, in its wrapper or not.
        checkpoint (dict): What was loaded.

    Returns:
        tuple[int, int, str]: Tensors that were loaded, tensors of the model;
        and what was not loaded: its first names, and why.
    """
    own, weights = _own(model), _weights_of(checkpoint) or {}
    left = []
    for key, value in own.items():
        shape = getattr(weights.get(key), 'shape', None)
        if shape == value.shape:
            continue
        why = 'not in the checkpoint'
        if shape is not None:
            why = f'{tuple(shape)} there, {tuple(value.shape)} here'
        left.append(f'{key} ({why})')
    told = ', '.join(left[:SHOWN])
    if len(left) > SHOWN:
        told += f' and {len(left) - SHOWN} more'
    return len(own) - len(left), len(own), told
