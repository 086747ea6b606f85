"""Load a checkpoint into a model that it must fit."""

from hourglass_npu.errors import UserError, is_user_error


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
    import torch
    from mmcv.runner import _load_checkpoint

    try:
        checkpoint = _load_checkpoint(path, 'cpu', logger='silent')
    except Exception as error:  # pickle raises anything at broken files
        if is_user_error(error):
            raise
        reason = ' '.join(str(error).split())
        raise UserError(f'{path} cannot be read: {reason}') from error
    saved = checkpoint
    if isinstance(checkpoint, dict):
        saved = checkpoint.get('state_dict', checkpoint)
    if not isinstance(saved, dict) or not all(
        isinstance(key, str) and isinstance(value, torch.Tensor)
        for key, value in saved.items()
    ):
        raise UserError(f'{path} holds no weights (tensors by name)')
    weights = {
        key[7:] if key.startswith('module.') else key: value
        for key, value in saved.items()
    }
    own = model.state_dict()
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
    if faults:
        raise UserError(
            f'{path} is a checkpoint of another model than the config '
            f'describes. It holds {len(weights)} tensors, the model has '
            f'{len(own)}: {"; ".join(faults)}.'
        )
    model.load_state_dict(weights)
    meta = checkpoint.get('meta')
    return meta if isinstance(meta, dict) else {}
