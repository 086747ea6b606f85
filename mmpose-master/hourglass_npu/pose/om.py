"""Run a compiled file (OM) on an NPU, with CANN's Python interface ``acl``.

An OM holds no properties. ``scripts/onnx2om.sh`` writes those of the ONNX
file into a JSON file beside it; otherwise the ONNX file itself must be there.
"""

import atexit
import os
from importlib import import_module

import numpy as np

from hourglass_npu.errors import UserError
from hourglass_npu.files import read_bytes, read_json
from hourglass_npu.pose import onnx_file
from hourglass_npu.pose.backends import ExportedNetwork

TYPES = {0: np.float32, 1: np.float16, 4: np.uint8}
"""Types of inputs and outputs, by the numbers of ``aclDataType``."""

BATCH_INPUT = 'ascend_mbatch_shape_data'
"""Input that ATC adds to a file with several batches: which one is meant."""

REPEATED = 100002
"""Status of ``acl.init`` where torch_npu has called it already."""

MALLOC_HUGE_FIRST = 0
TO_DEVICE, TO_HOST = 1, 2


def properties_beside(path):
    """Find the properties of an OM.

    Args:
        path (str): The OM.

    Returns:
        tuple[dict[str, str], str]: Names and values in JSON, and the file
        that they are from.

    Raises:
        UserError: There is no such file, or it has another form.
    """
    stem = os.path.splitext(path)[0]
    beside, onnx = f'{stem}.json', f'{stem}.onnx'
    if os.path.isfile(beside):
        properties = read_json(beside)
        if not isinstance(properties, dict) or not all(
            isinstance(value, str) for value in properties.values()
        ):
            raise UserError(f'{beside}: no file of scripts/onnx2om.sh')
        return properties, beside
    if os.path.isfile(onnx):
        return onnx_file.read_properties(read_bytes(onnx), onnx), onnx
    raise UserError(
        f'{path}: what it takes and returns is in {beside}, which '
        f'scripts/onnx2om.sh writes: copy that file too, or {onnx}'
    )


class OmNetwork(ExportedNetwork):
    """A file of scripts/onnx2om.sh, run by CANN.

    Args:
        path (str): The file.
        device (str | None): 'npu' or 'npu:1'; None for the first one.

    Attributes:
        batches (list[int]): Batches that it was compiled for.

    Raises:
        UserError: The file or its properties are missing, the device is no
            NPU, or CANN is missing or cannot load the file.
    """

    library = 'CANN'

    def __init__(self, path, device=None):
        if not os.path.isfile(path):
            raise UserError(
                f'{path}: there is no such file; scripts/onnx2om.sh makes it'
            )
        kind, _, index = (device or 'npu').partition(':')
        if kind not in ('npu', 'auto') or (index and not index.isdigit()):
            raise UserError(
                f'--device {device}: an OM runs on an NPU: npu, or npu:1 for '
                'the second'
            )
        super().__init__(path, *properties_beside(path))
        number = int(index or os.environ.get('NPUID') or 0)
        self._acl = _load_acl()
        self._start(number)
        self.place = f'CANN on npu:{number}'

    @property
    def most(self):
        """int: People of one pass at most."""
        return self.batches[-1]

    def batch_for(self, count):
        """Return the smallest batch of the file that so many people fit into.

        Args:
            count (int): People, at most :attr:`most`.

        Returns:
            int: One of :attr:`batches`.
        """
        return next(batch for batch in self.batches if batch >= count)

    def _start(self, number):
        """Load the file, and make room for its input and output."""
        acl = self._acl
        status = acl.init()
        if status not in (0, REPEATED):
            self._check(status, 'acl.init')
        self._check(acl.rt.set_device(number), f'no device npu:{number}')
        self._model = self._checked(
            acl.mdl.load_from_file(self._path), 'it cannot be loaded'
        )
        atexit.register(self._stop, number, status != REPEATED)
        self._description = acl.mdl.create_desc()
        self._check(
            acl.mdl.get_desc(self._description, self._model), 'no description'
        )
        self._read_input()
        dims = self._checked(
            acl.mdl.get_output_dims(self._description, 0), 'no output'
        )
        self._output_shape = tuple(dims['dims'][1:])
        self._output_type = self._type_of(
            acl.mdl.get_output_data_type(self._description, 0)
        )
        count = acl.mdl.get_num_inputs(self._description)
        self._inputs = self._buffers(count, acl.mdl.get_input_size_by_index)
        count = acl.mdl.get_num_outputs(self._description)
        self._outputs = self._buffers(count, acl.mdl.get_output_size_by_index)

    def _read_input(self):
        """Read what the file takes, and in which batches."""
        acl, width, height = self._acl, *self.settings.image_size
        dims = self._checked(
            acl.mdl.get_input_dims(self._description, 0), 'no input'
        )['dims']
        self._input_type = self._type_of(
            acl.mdl.get_input_data_type(self._description, 0)
        )
        shape = [height, width, 3] if self._preprocess else [3, height, width]
        if list(dims[1:]) != shape:
            raise UserError(
                f'{self._path} takes crops of {list(dims[1:])}, but its '
                f'properties say {shape}: they are of another file'
            )
        batch = self._checked(
            acl.mdl.get_dynamic_batch(self._description), 'no batch'
        )
        self.batches = sorted(batch['batch'][: batch['batchCount']])
        self._dims = {}
        if not self.batches and dims[0] < 0:
            # Compiled with --dynamic_dims: the form for bytes.
            count = self._checked(
                acl.mdl.get_input_dynamic_gear_count(self._description, -1),
                'no batch',
            )
            gears = self._checked(
                acl.mdl.get_input_dynamic_dims(self._description, -1, count),
                'no batch',
            )
            self._dims = {gear['dims'][0]: gear for gear in gears}
            self.batches = sorted(self._dims)
        if not self.batches:
            self.batches = [dims[0]]
            self.fixed = dims[0]
        if self.batches[0] < 1:
            raise UserError(
                f'{self._path} was compiled for any shape: compile it for '
                'batches, with `scripts/onnx2om.sh --batch 1,4,8`'
            )

    def _execute(self, batch):
        acl = self._acl
        if len(batch) not in self.batches:
            raise UserError(
                f'a batch of {len(batch)}: it was compiled for '
                f'{", ".join(map(str, self.batches))}'
            )
        content = batch.astype(self._input_type, copy=False).tobytes()
        memory, size = self._inputs[1][0]
        if len(content) > size:
            raise UserError(
                f'the input has {len(content)} bytes, and it takes {size}'
            )
        self._copy(
            memory,
            size,
            acl.util.bytes_to_ptr(content),
            len(content),
            TO_DEVICE,
        )
        if self.fixed is None:
            self._choose_batch(len(batch))
        self._check(
            acl.mdl.execute(self._model, self._inputs[0], self._outputs[0]),
            'it failed',
        )
        memory, size = self._outputs[1][0]
        shape = (len(batch), *self._output_shape)
        wanted = int(np.prod(shape)) * np.dtype(self._output_type).itemsize
        if wanted > size:
            raise UserError(f'its output has {size} bytes, not {wanted}')
        host = self._checked(acl.rt.malloc_host(wanted), 'no memory')
        try:
            self._copy(host, wanted, memory, wanted, TO_HOST)
            content = acl.util.ptr_to_bytes(host, wanted)
        finally:
            acl.rt.free_host(host)
        output = np.frombuffer(content, self._output_type).reshape(shape)
        return output.astype(np.float32)

    def _choose_batch(self, count):
        """Tell CANN which of its batches comes; it must be one of them."""
        acl = self._acl
        index = self._checked(
            acl.mdl.get_input_index_by_name(self._description, BATCH_INPUT),
            'it has no input for the batch',
        )
        place = (self._model, self._inputs[0], index)
        if self._dims:
            status = acl.mdl.set_input_dynamic_dims(*place, self._dims[count])
        else:
            status = acl.mdl.set_dynamic_batch_size(*place, count)
        self._check(status, f'the batch {count} is refused')

    def _buffers(self, count, size_of):
        """Allocate memory for all inputs or outputs.

        Returns:
            tuple[int, list[tuple[int, int]]]: The data set, and address and
            size of each part.
        """
        acl, parts = self._acl, []
        dataset = acl.mdl.create_dataset()
        for index in range(count):
            size = size_of(self._description, index)
            memory = self._checked(
                acl.rt.malloc(size, MALLOC_HUGE_FIRST), 'no memory'
            )
            self._checked(
                acl.mdl.add_dataset_buffer(
                    dataset, acl.create_data_buffer(memory, size)
                ),
                'no memory',
            )
            parts.append((memory, size))
        return dataset, parts

    def _copy(self, target, room, source, size, way):
        status = self._acl.rt.memcpy(target, room, source, size, way)
        self._check(status, 'its data cannot be copied')

    def _type_of(self, number):
        if number not in TYPES:
            raise UserError(
                f'{self._path}: numbers of the type {number} (aclDataType) '
                'are not supported'
            )
        return TYPES[number]

    def _checked(self, result, words):
        """Return the first part of what a call has returned."""
        value, status = result
        self._check(status, words)
        return value

    def _check(self, status, words):
        if status == 0:
            return
        reason = ''
        if hasattr(self._acl, 'get_recent_err_msg'):
            reason = str(self._acl.get_recent_err_msg() or '')
        raise UserError(
            f'{self._path}: {words} (status {status} of CANN) '
            f'{" ".join(reason.split())[:300]}'.rstrip()
        )

    def _stop(self, number, ours):
        """Give everything back, in reverse order."""
        acl = self._acl
        acl.mdl.unload(self._model)
        if ours:
            acl.rt.reset_device(number)
            acl.finalize()


def _load_acl():
    try:
        return import_module('acl')
    except ImportError as error:
        raise UserError(
            f"CANN's Python interface is missing ({error}): install the CANN "
            'toolkit or runtime and `source env.sh`, which puts the module '
            'acl on PYTHONPATH'
        ) from error
