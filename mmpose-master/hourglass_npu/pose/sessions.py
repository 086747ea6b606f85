"""ONNX Runtime: its devices, and files loaded into it."""

import os

from hourglass_npu.errors import UserError

PROVIDERS = {
    'npu': 'CANNExecutionProvider',
    'cuda': 'CUDAExecutionProvider',
    'cpu': 'CPUExecutionProvider',
}
"""What ONNX Runtime calls the devices, the best one first."""


def start_session(content, path, device=None):
    """Load an ONNX file, which has been checked, into ONNX Runtime.

    Args:
        content (bytes): The file.
        path (str): Its name, for messages.
        device (str | None): 'npu', 'cuda', 'cpu', one with an index
            ('npu:1'), or None or 'auto' for the first of these that this
            ONNX Runtime has.

    Returns:
        tuple[onnxruntime.InferenceSession, str]: The session, and what it
        runs on, for messages.

    Raises:
        UserError: The device does not exist, or the file cannot be loaded.
    """
    import onnxruntime

    provider, options = _provider(device)
    try:
        # Name one provider, not the CPU as well: a device that the user
        # named is used or refused.
        session = onnxruntime.InferenceSession(
            content,
            _session_options(onnxruntime),
            providers=[(provider, options)],
        )
    except Exception as error:  # ONNX Runtime raises anything
        raise UserError(
            f'{path}: ONNX Runtime cannot load it: {shortened(str(error))}'
        ) from error
    if provider not in session.get_providers():
        raise UserError(
            f'--device {device}: {provider} of ONNX Runtime did not start'
        )
    return session, f'ONNX Runtime ({provider[: -len("ExecutionProvider")]})'


def session_devices():
    """Return the kinds of devices that this ONNX Runtime has.

    Returns:
        list[str]: Keys of :data:`PROVIDERS`, the best one first.
    """
    import onnxruntime

    there = onnxruntime.get_available_providers()
    return [kind for kind, name in PROVIDERS.items() if name in there]


def _session_options(onnxruntime):
    """Use as many threads as torch would: processes share the cores."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what fails is raised, too
    threads = os.environ.get('OMP_NUM_THREADS', '')
    if threads.isdigit():
        options.intra_op_num_threads = int(threads)
    return options


def _provider(device):
    """Return name and options of the execution provider for a device."""
    usable = session_devices()
    if device in (None, 'auto'):
        return PROVIDERS[usable[0]], {}
    kind, _, index = device.partition(':')
    if kind not in PROVIDERS or (index and not index.isdigit()):
        raise UserError(
            f'--device {device}: must be npu, cuda or cpu, or npu:1 for '
            'the second'
        )
    if kind not in usable:
        raise UserError(
            f'--device {device}: this ONNX Runtime has '
            f'{", ".join(usable)}; install the build for {kind}'
        )
    options = {'device_id': int(index)} if index and kind != 'cpu' else {}
    return PROVIDERS[kind], options


def shortened(text, limit=300):
    """Shorten a text of a library to one line.

    Args:
        text (str): Any text.
        limit (int): Characters to keep.

    Returns:
        str: The text, or its beginning.
    """
    text = ' '.join(text.split())
    return text if len(text) <= limit else text[:limit] + ' ...'
